-- As many are issued as are counted and as were offered, each account has one, and each issue was told once.
with stored as (
    select coupon_id, count(*) as issues, count(distinct user_id) as users
    from {coupon}.coupon_issue
    group by coupon_id
)
select format('coupon %s: total %s, issued %s, rows %s', coupons.id, coupons.total, coupons.issued,
              coalesce(stored.issues, 0)) as offender
from {coupon}.coupons
left join stored on stored.coupon_id = coupons.id
where coupons.issued <> coalesce(stored.issues, 0) or coupons.issued > coupons.total
union all
select format('coupon %s: %s rows for %s users', stored.coupon_id, stored.issues, stored.users)
from stored
where stored.issues <> stored.users
union all
select format('issue %s belongs to coupon %s, which does not exist', issue.id, issue.coupon_id)
from {coupon}.coupon_issue as issue
left join {coupon}.coupons on coupons.id = issue.coupon_id
where coupons.id is null
union all
select format('issue %s of coupon %s for user %s was never told', issue.id, issue.coupon_id, issue.user_id)
from {coupon}.coupon_issue as issue
left join {coupon}.outbox_events as event
       on event.topic = 'COUPON_ISSUED' and event.key = format('%s:%s', issue.coupon_id, issue.user_id)
where event.id is null
  -- What was told is forgotten after a time; issues are not.
  and issue.issued_at > now() - interval '{outbox_retention_hours} hours'
union all
select format('COUPON_ISSUED %s tells of issue %s, which is not stored', event.event_id, event.payload::json ->> 'issueId')
from {coupon}.outbox_events as event
left join {coupon}.coupon_issue as issue on issue.id::text = event.payload::json ->> 'issueId'
where event.topic = 'COUPON_ISSUED' and issue.id is null
union all
select format('COUPON_ISSUED was told %s times of %s', count(*), key)
from {coupon}.outbox_events
where topic = 'COUPON_ISSUED'
group by key
having count(*) > 1
