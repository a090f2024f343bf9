-- Ends a run. Returns nothing if it has ended.
--
--   $1 the run
--   $2 why it failed; null: it is completed
update archive_runs
set status = case when $2::text is null then 'COMPLETED' else 'FAILED' end,
    error = $2,
    ended_at = clock_timestamp()
where id = $1 and status = 'RUNNING'
returning *
