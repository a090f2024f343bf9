-- An order and its announcement are committed together, and clients are told after that commit. So each proves the other.
select format('ORDER_CREATED %s announces order %s for %s, stored is %s', event.event_id, event.key,
              event.payload::json ->> 'amount', coalesce(orders.amount::text, 'nothing')) as offender
from {order}.outbox_events as event
left join {order}.all_orders as orders on orders.id::text = event.key
where event.topic = 'ORDER_CREATED'
  and (orders.id is null
       or orders.amount <> (event.payload::json ->> 'amount')::bigint
       or orders.user_id::text <> event.payload::json ->> 'userId')
union all
select format('order %s was never announced', orders.id)
from {order}.all_orders as orders
left join {order}.outbox_events as event on event.topic = 'ORDER_CREATED' and event.key = orders.id::text
where event.id is null
  -- Announcements are forgotten after a time; orders are not.
  and orders.created_at > now() - interval '{outbox_retention_hours} hours'
union all
select format('order %s was announced %s times', key, count(*))
from {order}.outbox_events
where topic = 'ORDER_CREATED'
group by key
having count(*) > 1
