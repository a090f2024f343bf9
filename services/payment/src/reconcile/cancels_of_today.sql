select count(*) as count
from reconciliation_findings
where action = 'CANCELLED' and found_at > statement_timestamp() - interval '1 day'
