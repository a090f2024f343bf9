-- Records takes that could not be stored, and returns those that are new and those that are stored after all.
-- $1 coupon id  $2 issue ids  $3 user ids, one for each issue id  $4 reason
with asked as (
    select distinct asked.id, asked.user_id, coupon_issue.id is not null as is_stored
      from unnest($2::uuid[], $3::uuid[]) as asked (id, user_id)
      left join coupon_issue on coupon_issue.id = asked.id
),
failed as (
    insert into coupon_issue_failures (issue_id, coupon_id, user_id, reason, failed_at)
    select asked.id, $1::uuid, asked.user_id, $4, clock_timestamp()
      from asked
     where not asked.is_stored
     order by asked.id
        on conflict (issue_id) do nothing
    returning issue_id, user_id, failed_at
)
select issue_id as id, user_id, false as is_stored, failed_at
  from failed
 union all
select id, user_id, true, clock_timestamp()
  from asked
 where is_stored
