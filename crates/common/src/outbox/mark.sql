-- $1 ids, $2 the cluster that acknowledged them. The lock lets this finish before, or see, a new cluster being noted:
-- what the lost broker acknowledged must not look published to the new one.
with broker as (
    select
    from outbox_broker
    where cluster_id = $2
    for share
)
update outbox_events
set status = 'PUBLISHED',
    published_at = coalesce(published_at, now()),
    last_error = null
where id = any ($1)
  and status = 'NEW'
  and exists (select from broker)
