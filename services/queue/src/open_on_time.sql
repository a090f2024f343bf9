-- Milliseconds until the next opening or closing, rounded up; null if there is none soon.
-- $1 how soon, in milliseconds
select ceil(extract(epoch from min(due.at) - clock_timestamp()) * 1000)::bigint as wait_ms
  from (select min(opens_at) as at from sale_events where status = 'PENDING'
        union all
        select min(closes_at) from sale_events where status = 'OPEN') as due
 where due.at <= clock_timestamp() + $1 * interval '1 millisecond'
