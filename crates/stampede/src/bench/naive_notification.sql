\set id random(1, 9000000000000000000)
begin;
insert into notifications (id, event_id, type, data, requested_by, fingerprint)
values (md5(:id::text)::uuid, gen_random_uuid(), 'BENCH', '{"orderId": "bench"}', gen_random_uuid(), sha256('bench'));
insert into deliveries (id, notification_id, channel, target, subject, body, priority)
values (gen_random_uuid(), md5(:id::text)::uuid, 'EMAIL', 'bench@example.com', 'Bench', 'It comes on Friday.', 100);
commit;
