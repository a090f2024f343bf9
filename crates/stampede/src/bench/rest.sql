-- Whether everything that was caused since $1 is done, as far as it can be told without reading much: at least $2
-- notifications, nothing to publish, nothing to send. Each condition has its index.
select not exists (select from {outbox_events} as event where status = 'NEW')
       and (select count(*) from {notification_hub}.notifications where created_at >= $1) >= $2
       and not exists (select from {notification_hub}.deliveries where status = 'PENDING')
       and not exists (select from {notification_hub}.deliveries where status = 'PROCESSING') as is_at_rest
