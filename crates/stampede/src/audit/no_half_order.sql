-- A hold has the id of its order.
select format('order %s, product %s: ordered %s at %s, held %s at %s', hold_id, product_id,
              coalesce(item.quantity, 0), item.unit_price, coalesce(line.quantity, 0), line.unit_price) as offender
from (select order_id as hold_id, product_id, quantity, unit_price from {order}.all_order_items) as item
full join (
    select line.hold_id, line.product_id, line.quantity, line.unit_price
    from {inventory}.hold_lines as line
    join {order}.all_orders as orders on orders.id = line.hold_id
) as line using (hold_id, product_id)
where item.quantity is distinct from line.quantity or item.unit_price is distinct from line.unit_price
union all
select format('order %s of user %s is %s, its hold of user %s %s', orders.id, orders.user_id, orders.status,
              hold.user_id, coalesce('is ' || hold.state, 'is missing'))
from {order}.all_orders as orders
left join {inventory}.holds as hold on hold.hold_id = orders.id
where hold.hold_id is null
   -- A tombstone belongs to nobody.
   or hold.user_id is distinct from orders.user_id
   -- When the time is up, order and hold end on their own, each by its own sweep. The hold's time is never the shorter.
   or (orders.status in ('CREATED', 'PENDING_PAYMENT') and hold.state not in ('HELD', 'PINNED', 'CONFIRMED')
       and (hold.expires_at > clock_timestamp() or orders.hold_expires_at > clock_timestamp() + interval '2 seconds'))
   -- An order ends first and its hold follows by an event.
   or (orders.status in ('CANCELLED', 'EXPIRED') and hold.state not in ('RELEASED', 'EXPIRED', 'RETURNED')
       and not (hold.state = 'HELD' and hold.expires_at <= clock_timestamp())
       -- Taken again for money that came late; the order follows it, or the units go back.
       and hold.state <> 'PINNED'
       and orders.id::text not in (select key from {subscribed} as event where consumer = 'inventory' and not is_applied))
