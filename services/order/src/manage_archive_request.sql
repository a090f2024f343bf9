-- Asks for a run, unless one has not ended.
--
--   $1 id of the run
--   $2 the administrator
--   $3 days that an order stays after its last change
insert into archive_runs (id, requested_by, unchanged_since)
values ($1, $2, statement_timestamp() - $3 * interval '1 day')
on conflict do nothing
returning *
