-- Seconds since the oldest refund without an answer was requested.
select coalesce(extract(epoch from statement_timestamp() - min(created_at)), 0)::float8 as oldest
from refunds
where status = 'PENDING'
