-- What Kafka must have: published, and not so old that Kafka may have dropped it.
select topic, key, aggregate_version, event_id
from {outbox_events} as event
where status = 'PUBLISHED' and published_at > now() - interval '{kafka_retention_hours} hours'
