-- The payments of the orders of $1.
select payment.id, payment.order_id, payment.captured, payment.refunded,
       payment.status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW') as is_open
from {payment}.payments as payment
join {order}.all_order_items as item on item.order_id = payment.order_id
where item.product_id = $1
