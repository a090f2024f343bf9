-- What the items cost, what the order says, what the payment says and what was captured are one amount.
with bill as (
    select order_id, sum(quantity::bigint * unit_price) as amount
    from {order}.order_items
    group by order_id
),
returned as (
    select payment_id, sum(amount) as amount
    from {payment}.refunds
    -- Of what was taken twice, the second is no part of the payment's sums: it only ever goes back.
    where status = 'SUCCEEDED' and not stray
    group by payment_id
),
answered as (
    select distinct payment_id, pg_payment_id
    from {payment}.payment_attempt
    where status = 'SUCCESS'
)
select format('order %s is %s: items %s, order %s, payment %s of order %s: amount %s, captured %s, refunded %s',
              orders.id, orders.status, coalesce(bill.amount, 0), orders.amount, coalesce(payment.id::text, 'none'),
              coalesce(payment.order_id::text, 'none'), coalesce(payment.amount, 0), coalesce(payment.captured, 0),
              coalesce(payment.refunded, 0)) as offender
from {order}.orders
left join bill on bill.order_id = orders.id
left join {payment}.payments as payment on payment.id = orders.paid_payment_id
where orders.status in ('PAID', 'REFUND_PENDING', 'REFUNDED')
  and (payment.id is null
       or payment.order_id <> orders.id
       or payment.user_id <> orders.user_id
       or payment.currency <> orders.currency
       or payment.amount <> orders.amount
       or payment.captured <> orders.amount
       or bill.amount is distinct from orders.amount
       or (orders.status = 'REFUNDED') <> (payment.refunded = payment.captured))
union all
select format('payment %s keeps %s for order %s, which is %s and paid by %s', payment.id,
              payment.captured - payment.refunded, payment.order_id, coalesce(orders.status, 'unknown'),
              coalesce(orders.paid_payment_id::text, 'none'))
from {payment}.payments as payment
left join {order}.orders on orders.id = payment.order_id
where payment.captured > payment.refunded and orders.paid_payment_id is distinct from payment.id
union all
select format('payment %s: refunded %s, its refunds make %s', payment.id, payment.refunded, coalesce(returned.amount, 0))
from {payment}.payments as payment
left join returned on returned.payment_id = payment.id
where payment.refunded <> coalesce(returned.amount, 0)
union all
select format('payment %s is %s: captured %s as %s, and no attempt at that succeeded', payment.id, payment.status,
              payment.captured, coalesce(payment.pg_payment_id, 'nothing'))
from {payment}.payments as payment
left join answered on answered.payment_id = payment.id and answered.pg_payment_id = payment.pg_payment_id
where payment.captured > 0 and answered.payment_id is null
