-- Takes the oldest run that no process works on. What it has found so far stays, and it begins again.
-- $1 seconds of the lease
update reconciliation_runs
set status = 'RUNNING',
    runner = runner + 1,
    lease_until = clock_timestamp() + $1 * interval '1 second',
    started_at = coalesce(started_at, clock_timestamp())
where id = (
    select id
    from reconciliation_runs
    where status = 'REQUESTED' or (status = 'RUNNING' and lease_until < statement_timestamp())
    order by created_at
    limit 1
    for update skip locked
)
returning *
