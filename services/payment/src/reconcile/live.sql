-- The run that is not ended, of which there is one at most.
-- $1 provider
select *
from reconciliation_runs
where provider = $1 and status in ('REQUESTED', 'RUNNING')
