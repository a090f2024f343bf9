-- Who was told of a product's restocks, and when.
-- $1: product
select
    told.round,
    told.user_id as "user",
    told.subscription_id as subscription,
    delivery.status = 'SUCCESS' as is_sent,
    told.attempted_at as at
from {notification_hub}.product_user_notification_history as told
join {notification_hub}.deliveries as delivery on delivery.notification_id = told.notification_id
where told.product_id = $1
order by told.round, told.attempted_at, told.subscription_id
