select coalesce(sum(line.quantity), 0)::bigint as units
from {inventory}.hold_lines as line
join {inventory}.holds as hold on hold.hold_id = line.hold_id
left join {order}.all_orders as orders on orders.id = hold.hold_id
where line.product_id = $1 and hold.state in ('HELD', 'PINNED') and orders.id is null
