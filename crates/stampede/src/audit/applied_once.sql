with subscribed as (
    select 'notification-hub' as consumer, event.*, inbox.event_id is not null as is_applied
    from {order}.outbox_events as event
    left join {notification_hub}.inbox on inbox.consumer = 'notification-hub' and inbox.event_id = event.event_id
    where event.topic = 'ORDER_CREATED' and event.status = 'PUBLISHED'
    union all
    select 'inventory', event.*, inbox.event_id is not null
    from {order}.outbox_events as event
    left join {inventory}.inbox on inbox.consumer = 'inventory' and inbox.event_id = event.event_id
    where event.topic in ('ORDER_CANCELLED', 'ORDER_EXPIRED') and event.status = 'PUBLISHED'
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
union all
select format('%s of order %s was applied %s times', type, data ->> 'orderId', count(*))
from {notification_hub}.notifications
where type = 'ORDER_CREATED'
group by type, data ->> 'orderId'
having count(*) > 1
union all
-- The effect in inventory is that the hold is gone.
select format('%s %s was applied and hold %s is %s', topic, subscribed.event_id, hold.hold_id, hold.state)
from subscribed
join {inventory}.holds as hold on hold.hold_id::text = subscribed.key
where subscribed.consumer = 'inventory' and subscribed.is_applied and hold.state in ('HELD', 'PINNED')
union all
select format('%s parked %s %s of %s: %s', consumer, topic, event_id, key, error) from {inventory}.parked
union all
select format('%s parked %s %s of %s: %s', consumer, topic, event_id, key, error) from {notification_hub}.parked
