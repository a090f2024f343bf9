-- The issues of coupon $1, each with how many events tell of it.
select issue.id, issue.user_id, count(event.event_id) as events
from {coupon}.coupon_issue as issue
left join {coupon}.outbox_events as event
       on event.topic = 'COUPON_ISSUED' and event.key = issue.coupon_id || ':' || issue.user_id
where issue.coupon_id = $1
group by issue.id, issue.user_id
