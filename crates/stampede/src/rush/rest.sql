-- What is still to be done; everything at 0 is rest.
select (select count(*) from {account}.outbox_events where status <> 'PUBLISHED')
     + (select count(*) from {inventory}.outbox_events where status <> 'PUBLISHED')
     + (select count(*) from {notification_hub}.outbox_events where status <> 'PUBLISHED')
     + (select count(*) from {order}.outbox_events where status <> 'PUBLISHED')
     + (select count(*) from {payment}.outbox_events where status <> 'PUBLISHED') as outbox_pending,
       -- Orders of this product that the hub has not heard of, or not of their being paid.
       (select count(*)
        from {order}.outbox_events as event
        join {order}.order_items as item on item.order_id::text = event.key and item.product_id = $1
        left join {notification_hub}.notifications as note on note.event_id = event.event_id
        where event.topic in ('ORDER_CREATED', 'ORDER_PLACED') and note.id is null) as unheard,
       (select count(*) from {notification_hub}.deliveries where status in ('PENDING', 'PROCESSING')) as unsent,
       -- Payments that nobody knows the end of, what they owe, and sales and returns that inventory has not heard of.
       (select count(*)
        from {payment}.payments
        where status in ('APPROVING', 'UNKNOWN') or owes_release or owes_order)
     + (select count(*) from {payment}.refunds where status = 'PENDING')
     + (select count(*)
        from {order}.order_items as item
        join {order}.orders on orders.id = item.order_id
        left join {inventory}.holds as hold on hold.hold_id = item.order_id
        where item.product_id = $1
          and (orders.status = 'REFUND_PENDING'
               or (orders.status = 'PAID' and hold.state is distinct from 'CONFIRMED')
               or (orders.status = 'REFUNDED' and hold.state is distinct from 'RETURNED'))) as unsettled
