-- How this PostgreSQL is set, and how many sessions it has.
select
    current_setting('server_version') as version,
    current_setting('server_version_num')::integer as version_number,
    current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('autovacuum') as autovacuum,
    current_setting('lc_messages') as lc_messages,
    pg_is_in_recovery() as is_standby,
    (current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer)::bigint as connections_max,
    (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections
