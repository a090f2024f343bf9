-- The view has lost the column in later versions; then it is null.
select clock_timestamp() as at,
       (to_jsonb(wal) ->> 'wal_sync')::bigint as syncs,
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as bytes
from pg_stat_wal as wal
