-- Takes permits of the limit of restock alerts (GCRA), by the clock of this server. It is one statement, so a process that
-- stops in the middle holds no lock; and who has waited for the row looks at what the one before has left. Who gets none writes
-- nothing.
-- $1: microseconds between two permits
-- $2: permits that a rested limit gives at once
-- $3: permits wanted
-- Returns the permits granted and, where that is none, the microseconds until there is one.
with asked as materialized (
    select
        clock_timestamp() as now,
        $1::bigint as interval_us,
        $2::bigint as burst,
        $3::bigint as wanted
),
free as materialized (
    select
        restock_limit.id,
        since.rested_at,
        room.permits
    from restock_limit
    cross join asked
    cross join lateral (
        select
            case
                -- No process takes more than a burst ahead: the clock was set back, such as by a fail-over to another server.
                when restock_limit.rested_at
                     > asked.now + asked.interval_us * asked.burst * interval '1 microsecond' + interval '1 minute'
                    then asked.now + asked.interval_us * (asked.burst - 1) * interval '1 microsecond'
                else greatest(restock_limit.rested_at, asked.now)
            end as rested_at
    ) as since
    cross join lateral (
        select
            least(
                asked.wanted,
                floor(asked.burst - extract(epoch from since.rested_at - asked.now) * 1000000 / asked.interval_us)::bigint
            ) as permits
    ) as room
    where room.permits > 0
    for update of restock_limit
),
taken as (
    update restock_limit
    set rested_at = free.rested_at + asked.interval_us * free.permits * interval '1 microsecond'
    from free
    cross join asked
    where restock_limit.id = free.id
)
select
    coalesce((select free.permits from free), 0) as granted,
    greatest(
        ceil(extract(epoch from restock_limit.rested_at - asked.now) * 1000000 - asked.interval_us * (asked.burst - 1)), 0
    )::bigint as wait_us
from restock_limit
cross join asked
