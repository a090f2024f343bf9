-- Up to when the day's archiving is done, and whether a run is to be made.
select
    statement_timestamp() as now,
    done_until,
    exists (select from archive_runs where status in ('REQUESTED', 'RUNNING')) as has_run
from archive_schedule
