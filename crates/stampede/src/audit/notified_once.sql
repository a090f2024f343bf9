select format('ORDER_CREATED %s has %s notifications', event.event_id, count(note.id)) as offender
from {order}.outbox_events as event
left join {notification_hub}.notifications as note on note.event_id = event.event_id
where event.topic = 'ORDER_CREATED' and event.status = 'PUBLISHED'
group by event.event_id
having count(note.id) <> 1
union all
select format('notification %s has %s e-mail deliveries', note.id, count(delivery.id))
from {notification_hub}.notifications as note
left join {notification_hub}.deliveries as delivery on delivery.notification_id = note.id and delivery.channel = 'EMAIL'
where note.type = 'ORDER_CREATED'
group by note.id
having count(delivery.id) <> 1
union all
select format('delivery %s is PENDING since %s, after %s attempts: %s', id, created_at, attempt, coalesce(last_error, 'no error'))
from {notification_hub}.deliveries
where status = 'PENDING'
union all
select format('delivery %s is PROCESSING, its lease ended at %s', id, lease_until)
from {notification_hub}.deliveries
where status = 'PROCESSING' and lease_until < clock_timestamp()
