-- Makes dead letters due again, some at a time. Those that die again meanwhile are younger than $1 and stay dead.
-- $1 dead since this instant or longer
-- $2 channel; null: any
-- $3 type of the notification; null: any
-- $4 why the last attempt failed; null: for any reason
-- $5 dead since this instant or shorter; null: however long
-- $6 how many at most
with dead as materialized (
    select deliveries.id
    from deliveries
    join notifications on notifications.id = deliveries.notification_id
    where deliveries.dead_lettered_at is not null
      and deliveries.dead_lettered_at <= $1
      and ($2::text is null or deliveries.channel = $2)
      and ($3::text is null or notifications.type = $3)
      and ($4::text is null or deliveries.last_error = $4)
      and ($5::timestamptz is null or deliveries.dead_lettered_at >= $5)
    order by deliveries.dead_lettered_at
    limit $6
    for update of deliveries skip locked
)
update deliveries
set status = 'PENDING', attempt = 0, dead_lettered_at = null, next_attempt_at = now(), updated_at = now()
from dead
where deliveries.id = dead.id
returning deliveries.channel
