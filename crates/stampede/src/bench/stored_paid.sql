-- Orders since $1, those that are paid and sold, and the money for them.
select count(*) as orders,
       count(*) filter (where orders.status = 'PAID' and hold.state = 'CONFIRMED') as sold,
       coalesce(sum(orders.amount) filter (where orders.status = 'PAID'), 0)::bigint as cost,
       coalesce(sum(payment.captured - payment.refunded), 0)::bigint as kept
from {order}.orders
left join {inventory}.holds as hold on hold.hold_id = orders.id
left join {payment}.payments as payment on payment.order_id = orders.id
where orders.created_at >= $1
