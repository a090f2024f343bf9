-- Makes the run of a day, once. A run that has not ended does its work.
--
--   $1 the time that has come
--   $2 id of the run
--   $3 days that an order stays after its last change
with taken as (
    update archive_schedule
    set done_until = $1
    where done_until < $1
    returning done_until
)
insert into archive_runs (id, unchanged_since)
select $2, statement_timestamp() - $3 * interval '1 day'
from taken
on conflict do nothing
