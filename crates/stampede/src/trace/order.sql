-- An order, live or archived. $1: its id.
select
    orders.id,
    orders.user_id,
    orders.status,
    orders.version,
    orders.amount,
    orders.currency,
    orders.archived_at,
    array(
        select format('%s x %s, %s, at %s', item.quantity, item.sku, item.name, item.unit_price)
            || case when cardinality(item.seats) > 0 then ', seats ' || array_to_string(item.seats, ' ') else '' end
            || case when item.discount > 0 then format(', less %s', item.discount) else '' end
        from {order}.all_order_items as item
        where item.order_id = orders.id
        order by item.line
    ) as items
from {order}.all_orders as orders
where orders.id = $1
