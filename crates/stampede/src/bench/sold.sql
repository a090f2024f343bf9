-- The sales since $1: how long each took from its hold to its confirmation, and when the last one was confirmed.
select count(*) as orders,
       coalesce(percentile_disc(0.5) within group (order by sale.ms), 0)::float8 as p50_ms,
       coalesce(percentile_disc(0.99) within group (order by sale.ms), 0)::float8 as p99_ms,
       coalesce(extract(epoch from max(sale.at) - $1), 0)::float8 as seconds
from (select extract(epoch from hold.updated_at - hold.created_at) * 1000 as ms, hold.updated_at as at
      from {inventory}.holds as hold
      where hold.created_at >= $1 and hold.state = 'CONFIRMED') as sale
