-- The paid orders of $1, with their hold, their news and their receipts.
with placed as (
    select event.key, count(*) as announced, count(delivery.id) as receipts
    from {order}.outbox_events as event
    left join {notification_hub}.notifications as note on note.event_id = event.event_id
    left join {notification_hub}.deliveries as delivery
           on delivery.notification_id = note.id and delivery.channel = 'EMAIL' and delivery.status = 'SUCCESS'
    where event.topic = 'ORDER_PLACED'
    group by event.key
)
select orders.id as order_id, orders.amount, orders.paid_payment_id as payment_id,
       coalesce(hold.state = 'CONFIRMED', false) as is_sold,
       coalesce(placed.announced, 0)::bigint as announced, coalesce(placed.receipts, 0)::bigint as receipts
from {order}.all_order_items as item
join {order}.all_orders as orders on orders.id = item.order_id
left join {inventory}.holds as hold on hold.hold_id = item.order_id
left join placed on placed.key = item.order_id::text
where item.product_id = $1 and orders.status = 'PAID'
