-- $1 run
-- $2 runner
-- $3 why it failed; null: it is completed
update reconciliation_runs
set status = case when $3::text is null then 'COMPLETED' else 'FAILED' end,
    error = $3,
    lease_until = null,
    ended_at = clock_timestamp(),
    (findings, difference) = (
        select count(*), coalesce(sum(found - expected), 0)::bigint
        from reconciliation_findings
        where run_id = $1
    )
where id = $1 and runner = $2 and status = 'RUNNING'
returning *
