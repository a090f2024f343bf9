-- What a shop without batches writes for a coupon: the columns, keys, indexes and storage of our own tables, in a schema apart.
create schema {scratch};
create table {scratch}.coupons (like {coupon}.coupons including all)
    with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
create table {scratch}.coupon_issue (like {coupon}.coupon_issue including all);
create table {scratch}.outbox_events (like {coupon}.outbox_events including all)
    with (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
insert into {scratch}.coupons (id, name, discount_kind, discount_value, currency, minimum_amount, total, starts_at, expires_at,
                               restored_on_refund, fingerprint)
values ('00000000-0000-0000-0000-000000000001', 'Bench', 'PERCENT', 10, 'KRW', 0, 1000000000, now(),
        now() + interval '1 day', true, '');

-- Every event is as large as a real one.
do $$
declare
    event record;
begin
    select payload, headers into strict event from {coupon}.outbox_events where topic = 'COUPON_ISSUED' limit 1;
    execute format('alter table {scratch}.outbox_events alter column payload set default %L', event.payload);
    execute format('alter table {scratch}.outbox_events alter column headers set default %L', event.headers);
end
$$;
