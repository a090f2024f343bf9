-- That an order is paid, that its units are sold and that the news of it went out are facts of two services. Joined
-- fully, so that none of them is there without the others.
with paid as (
    select id, status, paid_payment_id, created_at
    from {order}.all_orders as orders
    where status in ('PAID', 'REFUND_PENDING', 'REFUNDED')
),
sold as (
    select hold_id, state
    from {inventory}.holds
    where state in ('CONFIRMED', 'RETURNED')
),
placed as (
    select key, count(*) as events, min(payload::json ->> 'paymentId') as payment_id
    from {order}.outbox_events
    where topic = 'ORDER_PLACED'
    group by key
)
select format('order %s is %s by payment %s, its hold is %s, and ORDER_PLACED was recorded %s times, for payment %s',
              coalesce(paid.id::text, sold.hold_id::text, placed.key), coalesce(paid.status, 'not paid'),
              coalesce(paid.paid_payment_id::text, 'none'), coalesce(sold.state, 'not sold'),
              coalesce(placed.events, 0), coalesce(placed.payment_id, 'none')) as offender
from paid
full join sold on sold.hold_id = paid.id
full join placed on placed.key = coalesce(paid.id, sold.hold_id)::text
where paid.id is null
   or sold.hold_id is null
   or (paid.status = 'REFUNDED') <> (sold.state = 'RETURNED')
   or placed.events > 1
   or placed.payment_id <> paid.paid_payment_id::text
   -- News is forgotten after a time; orders are not.
   or (placed.events is null and paid.created_at > now() - interval '{outbox_retention_hours} hours')
