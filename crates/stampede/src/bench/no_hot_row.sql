begin;
insert into orders (id, user_id, amount, currency, fingerprint, idempotency_key, hold_expires_at, first_hold_expires_at)
values (gen_random_uuid(), gen_random_uuid(), 129000, 'KRW', sha256('bench'), gen_random_uuid(), now() + interval '1 day', now() + interval '1 day');
insert into outbox_events (event_id, shard, aggregate_type, topic, key, aggregate_version)
values (gen_random_uuid(), 0, 'order', 'ORDER_CREATED', gen_random_uuid(), 1);
commit;
