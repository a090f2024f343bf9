-- Records how claims ended. A claim that is no longer the current one (its lease was lost) changes nothing and is
-- missing from the answer. That it is claimed is read from its lease: asked for its status, the planner would go through
-- the index of leased deliveries, and through all that have left it since the last vacuum.
update deliveries
set status = settled.status,
    attempt = settled.attempt,
    next_attempt_at = case
        when settled.status = 'PENDING' then now() + settled.delay_ms * interval '1 millisecond'
        else deliveries.next_attempt_at
    end,
    lease_until = null,
    last_error = coalesce(settled.last_error, deliveries.last_error),
    dead_lettered_at = case when settled.dead then now() end,
    updated_at = now()
from unnest($1, $2, $3, $4, $5, $6, $7) as settled (id, lock_token, status, attempt, delay_ms, last_error, dead)
where deliveries.id = settled.id
  and deliveries.lease_until is not null
  and deliveries.lock_token = settled.lock_token
returning
    deliveries.id,
    extract(epoch from clock_timestamp() - deliveries.created_at)::float8 as age_seconds
