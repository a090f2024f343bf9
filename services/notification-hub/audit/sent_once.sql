-- Which ways each kind of notification is sent that an event leads to. Who asks for one says it with the request.
with told (type, channel) as (
    values ('ORDER_CREATED', 'EMAIL'), ('ORDER_PLACED', 'EMAIL'), ('PAYMENT_REFUNDED', 'EMAIL'), ('PAYMENT_FAILED', 'EMAIL'),
           ('PAYMENT_FAILED', 'SLACK'), ('PAYMENT_UNKNOWN', 'SLACK'),
           ('RESTOCK', 'EMAIL'), ('WEBHOOK_ENDPOINT_DISABLED', 'SLACK')
)
select format('notification %s of %s has %s deliveries by %s', note.id, note.type, count(delivery.id), told.channel) as offender
from {notification_hub}.notifications as note
join told on told.type = note.type
left join {notification_hub}.deliveries as delivery
       on delivery.notification_id = note.id and delivery.channel = told.channel
where note.requested_by is null
group by note.id, note.type, told.channel
having count(delivery.id) <> 1
union all
select format('notification %s is of %s, which is sent no way', note.id, note.type)
from {notification_hub}.notifications as note
left join told on told.type = note.type
where told.type is null and note.requested_by is null
union all
select format('delivery %s is PENDING since %s, after %s attempts: %s', id, created_at, attempt, coalesce(last_error, 'no error'))
from {notification_hub}.deliveries
where status = 'PENDING'
  -- What is asked for later is not late. What only waits for its channel's pace is due within seconds.
  and not (attempt = 0 and last_error is null and next_attempt_at > now() + interval '10 minutes')
union all
select format('delivery %s is PROCESSING, its lease ended at %s', id, lease_until)
from {notification_hub}.deliveries
where status = 'PROCESSING' and lease_until < clock_timestamp()
union all
-- Given up: somebody was not told, and is not until an operator has it sent again.
select format('delivery %s is FAILED after %s attempts: %s', id, attempt, coalesce(last_error, 'no error'))
from {notification_hub}.deliveries
-- A restock alert that came too late is not sent, on purpose.
where status = 'FAILED' and last_error is distinct from 'SOLD_OUT'
