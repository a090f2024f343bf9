select item.order_id, orders.user_id as buyer, item.quantity::bigint as units
from {order}.all_order_items as item
join {order}.all_orders as orders on orders.id = item.order_id
where item.product_id = $1
