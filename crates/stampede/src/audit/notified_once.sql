-- Who is told of what, by which ways.
with told (topic, channel) as (
    values ('ORDER_CREATED', 'EMAIL'), ('ORDER_PLACED', 'EMAIL'), ('PAYMENT_REFUNDED', 'EMAIL'), ('PAYMENT_FAILED', 'EMAIL'),
           ('PAYMENT_FAILED', 'SLACK'), ('PAYMENT_UNKNOWN', 'SLACK')
),
event as (
    select event_id, topic from {order}.outbox_events
    where topic in ('ORDER_CREATED', 'ORDER_PLACED') and status = 'PUBLISHED'
    union all
    select event_id, topic from {payment}.outbox_events
    where status = 'PUBLISHED'
      and (topic in ('PAYMENT_FAILED', 'PAYMENT_REFUNDED')
           or (topic = 'PAYMENT_UNKNOWN' and (payload::json ->> 'needsReview')::boolean))
)
select format('%s %s has %s notifications', event.topic, event.event_id, count(note.id)) as offender
from event
left join {notification_hub}.notifications as note on note.event_id = event.event_id
group by event.topic, event.event_id
having count(note.id) <> 1
union all
select format('notification %s of %s has %s deliveries by %s', note.id, note.type, count(delivery.id), told.channel)
from {notification_hub}.notifications as note
join told on told.topic = note.type
left join {notification_hub}.deliveries as delivery
       on delivery.notification_id = note.id and delivery.channel = told.channel
group by note.id, note.type, told.channel
having count(delivery.id) <> 1
union all
select format('delivery %s is PENDING since %s, after %s attempts: %s', id, created_at, attempt, coalesce(last_error, 'no error'))
from {notification_hub}.deliveries
where status = 'PENDING'
union all
select format('delivery %s is PROCESSING, its lease ended at %s', id, lease_until)
from {notification_hub}.deliveries
where status = 'PROCESSING' and lease_until < clock_timestamp()
union all
-- Given up: somebody was not told, and is not until an operator has it sent again.
select format('delivery %s is FAILED after %s attempts: %s', id, attempt, coalesce(last_error, 'no error'))
from {notification_hub}.deliveries
where status = 'FAILED'
