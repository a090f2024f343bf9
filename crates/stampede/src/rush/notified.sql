select item.order_id, count(distinct note.id) as notifications,
       count(delivery.id) filter (where delivery.status = 'SUCCESS') as sent
from {order}.order_items as item
join {notification_hub}.notifications as note on note.type = 'ORDER_CREATED' and note.data ->> 'orderId' = item.order_id::text
left join {notification_hub}.deliveries as delivery on delivery.notification_id = note.id and delivery.channel = 'EMAIL'
where item.product_id = $1
group by item.order_id
