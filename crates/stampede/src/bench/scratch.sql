-- What a shop without batches writes: the columns, keys, indexes and storage of our own tables, in a schema apart.
create schema {scratch};
create table {scratch}.stocks (like {inventory}.stocks including all)
    with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
create table {scratch}.orders (like {order}.orders including all);
create table {scratch}.outbox_events (like {order}.outbox_events including all)
    with (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
insert into {scratch}.stocks (product_id, on_hand) values ('00000000-0000-0000-0000-000000000001', 1000000000);

-- Every event is as large as a real one.
do $$
declare
    event record;
begin
    select payload, headers into strict event from {order}.outbox_events where topic = 'ORDER_CREATED' limit 1;
    execute format('alter table {scratch}.outbox_events alter column payload set default %L', event.payload);
    execute format('alter table {scratch}.outbox_events alter column headers set default %L', event.headers);
end
$$;
