-- Records what became of claimed deliveries, and each attempt. A claim that is no longer the current one changes nothing and is missing
-- from the answer. That a delivery is claimed is read from its lease: asked for its status, the planner would go through
-- the index of leased deliveries, and through all that have left it since the last vacuum.
-- $1: ids of deliveries
-- $2: lock tokens of their claims
-- $3: new statuses
-- $4: attempts that count
-- $5: milliseconds until they are due again
-- $6: why the attempts failed; null if they did not
-- $7: whether they are dead letters
-- $8: whether they were tried, and not handed back
with recorded as (
    update deliveries
    set status = result.status,
        attempt = result.attempt,
        next_attempt_at = case
            when result.status = 'PENDING' then now() + result.delay_ms * interval '1 millisecond'
            else deliveries.next_attempt_at
        end,
        lease_until = null,
        last_error = coalesce(result.last_error, deliveries.last_error),
        dead_lettered_at = case when result.is_dead then now() end,
        updated_at = now()
    from unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::integer[], $5::bigint[], $6::text[], $7::boolean[], $8::boolean[]
    ) as result (id, lock_token, status, attempt, delay_ms, last_error, is_dead, is_tried)
    where deliveries.id = result.id
      and deliveries.lease_until is not null
      and deliveries.lock_token = result.lock_token
    returning
        deliveries.id,
        result.lock_token,
        result.last_error,
        result.is_tried,
        extract(epoch from clock_timestamp() - deliveries.created_at)::float8 as age_seconds
),
noted as (
    insert into delivery_attempts (delivery_id, lock_token, error, ended_at)
    select recorded.id, recorded.lock_token, recorded.last_error, clock_timestamp()
    from recorded
    where recorded.is_tried
)
select recorded.id, recorded.age_seconds
from recorded
