-- What the items cost, what the order says, what the payment says and what was captured are one amount.
with bill as (
    select order_id, sum(quantity::bigint * unit_price - discount) as amount
    from {order}.all_order_items
    group by order_id
)
select format('order %s is %s: items %s, order %s, payment %s of order %s: amount %s, captured %s, refunded %s',
              orders.id, orders.status, coalesce(bill.amount, 0), orders.amount, coalesce(payment.id::text, 'none'),
              coalesce(payment.order_id::text, 'none'), coalesce(payment.amount, 0), coalesce(payment.captured, 0),
              coalesce(payment.refunded, 0)) as offender
from {order}.all_orders as orders
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
left join {order}.all_orders as orders on orders.id = payment.order_id
where payment.captured > payment.refunded and orders.paid_payment_id is distinct from payment.id
