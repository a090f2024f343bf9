drop view payments_compared;
drop index payments_captured;
drop table reconciliation_findings;
drop table reconciliation_runs;
