-- What is still to be done; everything at 0 is rest.
select (select count(*) from {account}.outbox_events where status <> 'PUBLISHED')
     + (select count(*) from {inventory}.outbox_events where status <> 'PUBLISHED')
     + (select count(*) from {notification_hub}.outbox_events where status <> 'PUBLISHED')
     + (select count(*) from {order}.outbox_events where status <> 'PUBLISHED') as outbox_pending,
       -- Orders of this product that the hub has not heard of.
       (select count(*)
        from {order}.outbox_events as event
        join {order}.order_items as item on item.order_id::text = event.key and item.product_id = $1
        left join {notification_hub}.notifications as note on note.event_id = event.event_id
        where event.topic = 'ORDER_CREATED' and note.id is null) as unheard,
       (select count(*) from {notification_hub}.deliveries where status in ('PENDING', 'PROCESSING')) as unsent
