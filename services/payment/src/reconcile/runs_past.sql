-- Up to where the scheduled runs have compared (before the first one: from the first payment with money), and when the
-- last run failed.
select
    statement_timestamp() as now,
    coalesce(
        (select max(to_time) from reconciliation_runs where status = 'COMPLETED' and requested_by is null),
        (select min(created_at) from payments where captured > 0)
    ) as reached,
    (
        select case when status = 'FAILED' then ended_at end
        from reconciliation_runs
        order by created_at desc
        limit 1
    ) as failed_at
