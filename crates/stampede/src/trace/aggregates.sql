-- What events of an order are about: the order itself and its payments, with the version that each has reached. $1: the
-- order's id.
select 'order' as kind, orders.id::text as key, orders.version
from {order}.all_orders as orders
where orders.id = $1
union all
select 'payment', payments.id::text, payments.version
from {payment}.payments
where payments.order_id = $1
