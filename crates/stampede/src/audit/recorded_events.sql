-- What Kafka must have: published, and not so old that Kafka may have dropped it.
select topic, key, aggregate_version, event_id
from (
    select * from {account}.outbox_events
    union all
    select * from {inventory}.outbox_events
    union all
    select * from {notification_hub}.outbox_events
    union all
    select * from {order}.outbox_events
    union all
    select * from {payment}.outbox_events
) as event
where status = 'PUBLISHED' and published_at > now() - interval '{kafka_retention_hours} hours'
