-- What people are told about led to one notification each, and nothing else did.
with told as (
    select event_id, topic, status
    from {subscribed} as event
    where consumer = 'notification-hub'
      -- These lead to as many alerts as there are subscribers: I19 looks at them.
      and topic not in ('STOCK_DEPLETED', 'STOCK_REPLENISHED')
      -- A person is only told when a person has to look.
      and (topic <> 'PAYMENT_UNKNOWN' or (payload::json ->> 'needsReview')::boolean)
)
select format('%s %s has %s notifications', told.topic, told.event_id, count(note.id)) as offender
from told
left join {notification_hub}.notifications as note on note.event_id = told.event_id
where told.status = 'PUBLISHED'
group by told.topic, told.event_id
having count(note.id) <> 1
union all
select format('notification %s of %s is about event %s, of which nobody is to be told', note.id, note.type, note.event_id)
from {notification_hub}.notifications as note
left join told on told.event_id = note.event_id
left join {outbox_events} as recorded on recorded.event_id = note.event_id
left join {notification_hub}.inbox as applied
       on applied.consumer = 'notification-hub' and applied.event_id = note.event_id
where told.event_id is null
  -- Somebody asked for it.
  and note.requested_by is null
  -- A campaign wrote it: I19 looks at these.
  and note.type <> 'RESTOCK'
  -- Outboxes forget events after a time; notifications stay.
  and (recorded.event_id is not null
       or (applied.event_id is null and note.created_at > now() - interval '{outbox_retention_hours} hours'))
