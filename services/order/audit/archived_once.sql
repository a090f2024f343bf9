-- An order is in one of the two places, with all that belongs to it. That an archived one has ended is a constraint.
select format('order %s is live and archived', id) as offender
from {order}.orders
join {order}.orders_archive using (id)
union all
select format('item %s of order %s is live, and the order is archived', line, order_id)
from {order}.order_items
join {order}.orders_archive on orders_archive.id = order_id
union all
select format('item %s of order %s is archived, and the order is not', line, order_id)
from {order}.order_items_archive
left join {order}.orders_archive on orders_archive.id = order_id
where orders_archive.id is null
union all
select format('the address of order %s is live, and the order is not', order_id)
from {order}.shipping_info
left join {order}.orders on orders.id = order_id
where orders.id is null
union all
select format('the address of order %s is archived, and the order is not', order_id)
from {order}.shipping_info_archive
left join {order}.orders_archive on orders_archive.id = order_id
where orders_archive.id is null
