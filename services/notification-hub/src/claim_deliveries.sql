-- Takes the most urgent due deliveries of a channel out of everybody else's sight, until the lease is over.
-- $1: channel
-- $2: how many at most
-- $3: lease in milliseconds
-- Materialized: the planner must not run the locking part more than once.
with due as materialized (
    select deliveries.id, deliveries.notification_id
    from deliveries
    where deliveries.status = 'PENDING'
      and deliveries.channel = $1
      and deliveries.next_attempt_at <= now()
    order by deliveries.priority, deliveries.next_attempt_at, deliveries.id
    limit $2
    for update skip locked
)
update deliveries
set status = 'PROCESSING',
    attempt = deliveries.attempt + 1,
    lock_token = deliveries.lock_token + 1,
    lease_until = now() + $3 * interval '1 millisecond',
    updated_at = now()
from due
join notifications on notifications.id = due.notification_id
where deliveries.id = due.id
returning
    deliveries.id,
    deliveries.channel,
    deliveries.attempt,
    deliveries.lock_token,
    deliveries.notification_id as notification,
    deliveries.last_error,
    deliveries.target,
    deliveries.subject,
    deliveries.body,
    deliveries.is_markup,
    notifications.user_id as "user",
    notifications.traceparent
