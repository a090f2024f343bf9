-- Payments whose outcome is unknown, and seconds since the oldest of their attempts began.
select
    count(*) as count,
    coalesce(extract(epoch from statement_timestamp() - min(approving_since)), 0)::float8 as oldest
from payments
where status in ('UNKNOWN', 'NEEDS_REVIEW')
