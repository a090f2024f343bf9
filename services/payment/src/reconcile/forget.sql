-- $1 days that runs are kept
delete from reconciliation_runs
where status in ('COMPLETED', 'FAILED') and created_at < statement_timestamp() - $1 * interval '1 day'
