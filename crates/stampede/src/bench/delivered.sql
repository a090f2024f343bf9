-- What has become of the deliveries since $1, and how long it took from the first to the last.
select
    count(*) filter (where delivery.status = 'SUCCESS') as sent,
    count(*) filter (where delivery.status in ('PENDING', 'PROCESSING')) as open,
    coalesce(extract(epoch from max(delivery.updated_at) - min(delivery.created_at)), 0)::float8 as seconds
from {notification_hub}.deliveries as delivery
where delivery.created_at >= $1
