-- How long after the orders since $1 their notifications were recorded. Both times are of one clock, and each is the
-- start of its transaction.
select count(*) as orders,
       coalesce(percentile_disc(0.5) within group (order by delay.ms), 0)::float8 as p50_ms,
       coalesce(percentile_disc(0.99) within group (order by delay.ms), 0)::float8 as p99_ms,
       coalesce(extract(epoch from max(delay.at) - $1), 0)::float8 as seconds
from (select extract(epoch from note.created_at - event.created_at) * 1000 as ms, note.created_at as at
      from {order}.outbox_events as event
      join {notification_hub}.notifications as note on note.event_id = event.event_id
      where event.topic = 'ORDER_CREATED' and event.created_at >= $1) as delay
