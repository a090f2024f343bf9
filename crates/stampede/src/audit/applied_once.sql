-- What is only for some consumers' eyes counts as applied by the others all the same.
with subscribed as (
    select * from {subscribed} as event where status = 'PUBLISHED'
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
  and subscribed.topic not in ('STOCK_DEPLETED', 'STOCK_REPLENISHED')
  -- A person is only told when a person has to look.
  and (subscribed.topic <> 'PAYMENT_UNKNOWN' or (subscribed.payload::json ->> 'needsReview')::boolean)
union all
-- What is back in stock begins a restock round.
select format('%s %s of %s was applied and began no restock round', topic, subscribed.event_id, key)
from subscribed
left join {notification_hub}.product_notification_history as begun
       on begun.product_id::text = subscribed.key
      and begun.round = (subscribed.payload::json ->> 'restockRound')::bigint
where subscribed.consumer = 'notification-hub'
  and subscribed.is_applied
  and subscribed.topic = 'STOCK_REPLENISHED'
  and begun.id is null
union all
-- The effect in inventory is that the hold is gone or sold.
select format('%s %s was applied and hold %s is %s', topic, subscribed.event_id, hold.hold_id, hold.state)
from subscribed
join {inventory}.holds as hold on hold.hold_id::text = subscribed.key
where subscribed.consumer = 'inventory' and subscribed.is_applied and hold.state in ('HELD', 'PINNED')
union all
select format('%s parked %s %s of %s: %s', consumer, topic, event_id, key, error)
from {parked} as event
union all
-- Who consumes an event is known by who produces its topic.
select format('%s recorded %s %s of %s, and does not say that it produces that', service, topic, event_id, key)
from {outbox_events} as event
left join {produced} as produced (service, topic) using (service, topic)
where produced.topic is null
