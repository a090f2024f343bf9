-- The run that has not ended, if there is one: new, or cut off with the process that had it. It goes on where it was.
update archive_runs
set status = 'RUNNING', started_at = coalesce(started_at, clock_timestamp())
where status in ('REQUESTED', 'RUNNING')
returning *
