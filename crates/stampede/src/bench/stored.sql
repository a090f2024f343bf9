-- Orders since $1, and units of them that are held.
select count(distinct orders.id) as orders, coalesce(sum(line.quantity), 0)::bigint as units
from {order}.orders
left join {inventory}.hold_lines as line on line.hold_id = orders.id
where orders.created_at >= $1
