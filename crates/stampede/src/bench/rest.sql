-- Whether everything that the orders since $1, $2 of them, have caused is done. Each condition has its index.
select not exists (select from {outbox_events} as event where status = 'NEW')
       and (select count(*) from {notification_hub}.notifications where created_at >= $1) >= $2
       and not exists (select from {notification_hub}.deliveries where status = 'PENDING')
       and not exists (select from {notification_hub}.deliveries where status = 'PROCESSING') as is_at_rest
