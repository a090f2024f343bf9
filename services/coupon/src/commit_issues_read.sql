-- Those of some issues that exist.
-- $1 issue ids
select id, take_id, issued_at
  from coupon_issue
 where id = any($1::uuid[])
