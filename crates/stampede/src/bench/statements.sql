-- What this database has executed since the counters were reset, the most expensive first.
select query, sum(calls)::bigint as calls, sum(total_exec_time) as ms
from public.pg_stat_statements
where dbid = (select oid from pg_database where datname = current_database()) and query !~ 'pg_stat_statements'
group by query
order by ms desc
