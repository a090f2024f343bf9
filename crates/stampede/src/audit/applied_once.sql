-- Who listens to what. What is only for some listeners' eyes counts as applied by them all the same.
with subscribed as (
    select 'notification-hub' as consumer, event.*, inbox.event_id is not null as is_applied
    from (
        select * from {order}.outbox_events where topic in ('ORDER_CREATED', 'ORDER_PLACED')
        union all
        select * from {payment}.outbox_events where topic in ('PAYMENT_FAILED', 'PAYMENT_UNKNOWN', 'PAYMENT_REFUNDED')
    ) as event
    left join {notification_hub}.inbox on inbox.consumer = 'notification-hub' and inbox.event_id = event.event_id
    where event.status = 'PUBLISHED'
    union all
    select 'inventory', event.*, inbox.event_id is not null
    from {order}.outbox_events as event
    left join {inventory}.inbox on inbox.consumer = 'inventory' and inbox.event_id = event.event_id
    where event.topic in ('ORDER_CANCELLED', 'ORDER_EXPIRED', 'ORDER_PLACED', 'ORDER_REFUNDED')
      and event.status = 'PUBLISHED'
    union all
    select 'order', event.*, inbox.event_id is not null
    from {payment}.outbox_events as event
    left join {order}.inbox on inbox.consumer = 'order' and inbox.event_id = event.event_id
    where event.topic in ('PAYMENT_APPROVED', 'PAYMENT_REFUNDED') and event.status = 'PUBLISHED'
    union all
    select 'payment', event.*, inbox.event_id is not null
    from {order}.outbox_events as event
    left join {payment}.inbox on inbox.consumer = 'payment' and inbox.event_id = event.event_id
    where event.topic in ('ORDER_PLACED', 'ORDER_REFUND_REQUESTED', 'ORDER_CANCELLED', 'ORDER_EXPIRED')
      and event.status = 'PUBLISHED'
)
select format('%s has not applied %s %s of %s', consumer, topic, event_id, key) as offender
from subscribed
where not is_applied
union all
-- The effect in the hub is the notification, known by the event and by what the event is about.
select format('%s %s of %s was applied and left no notification', topic, subscribed.event_id, key)
from subscribed
left join {notification_hub}.notifications as note on note.event_id = subscribed.event_id
where subscribed.consumer = 'notification-hub' and subscribed.is_applied and note.id is null
  -- A person is only told when a person has to look.
  and (subscribed.topic <> 'PAYMENT_UNKNOWN' or (subscribed.payload::json ->> 'needsReview')::boolean)
union all
select format('%s of order %s was applied %s times', type, data ->> 'orderId', count(*))
from {notification_hub}.notifications
where type in ('ORDER_CREATED', 'ORDER_PLACED')
group by type, data ->> 'orderId'
having count(*) > 1
union all
-- The effect in inventory is that the hold is gone or sold.
select format('%s %s was applied and hold %s is %s', topic, subscribed.event_id, hold.hold_id, hold.state)
from subscribed
join {inventory}.holds as hold on hold.hold_id::text = subscribed.key
where subscribed.consumer = 'inventory' and subscribed.is_applied and hold.state in ('HELD', 'PINNED')
union all
select format('%s parked %s %s of %s: %s', consumer, topic, event_id, key, error) from {inventory}.parked
union all
select format('%s parked %s %s of %s: %s', consumer, topic, event_id, key, error) from {notification_hub}.parked
union all
select format('%s parked %s %s of %s: %s', consumer, topic, event_id, key, error) from {order}.parked
union all
select format('%s parked %s %s of %s: %s', consumer, topic, event_id, key, error) from {payment}.parked
