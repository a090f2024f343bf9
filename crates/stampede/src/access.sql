-- What our role may do in schemas. $1: their names.
select
    wanted.name as schema,
    current_user::text as role,
    space.oid is not null as is_there,
    coalesce(has_schema_privilege(space.oid, 'usage'), false) and not exists (
        select from pg_class as class
        where class.relnamespace = space.oid and class.relkind in ('r', 'p', 'v')
          and not has_table_privilege(class.oid, 'select')
    ) as may_read,
    -- What the commands of operators change.
    coalesce(has_schema_privilege(space.oid, 'usage'), false) and not exists (
        select from pg_class as class
        where class.relnamespace = space.oid and class.relname in ('outbox_events', 'parked')
          and not has_table_privilege(class.oid, 'update')
    ) as may_change
from unnest($1::text[]) with ordinality as wanted (name, place)
left join pg_namespace as space on space.nspname = wanted.name
order by wanted.place
