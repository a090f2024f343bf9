-- The newest run of the archive, and how long it has taken.
select status, orders, coalesce(extract(epoch from ended_at - started_at), 0)::float8 as seconds
from {order}.archive_runs
order by created_at desc
limit 1
