-- Writes the versions of issues, which their events have.
-- $1 issue ids  $2 versions, one for each issue id
update coupon_issue
   set version = raised.version
  from unnest($1::uuid[], $2::bigint[]) as raised (id, version)
 where coupon_issue.id = raised.id
