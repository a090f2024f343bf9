with total as (
    select order_id, count(*) as lines, sum(quantity::bigint * unit_price - discount) as amount
    from {order}.all_order_items
    group by order_id
)
select format('order %s: amount %s, its %s items make %s', orders.id, orders.amount, coalesce(total.lines, 0), coalesce(total.amount, 0)) as offender
from {order}.all_orders as orders
left join total on total.order_id = orders.id
where orders.amount is distinct from total.amount
union all
select format('items of order %s, which does not exist', total.order_id)
from total
left join {order}.all_orders as orders on orders.id = total.order_id
where orders.id is null
