begin;
update coupons
   set issued = issued + 1
 where id = '00000000-0000-0000-0000-000000000001' and issued < total;
insert into coupon_issue (id, coupon_id, user_id, take_id, issued_at)
values (gen_random_uuid(), '00000000-0000-0000-0000-000000000001', gen_random_uuid(), 'bench', clock_timestamp());
insert into outbox_events (event_id, shard, aggregate_type, topic, key, aggregate_version)
values (gen_random_uuid(), 0, 'coupon_issue', 'COUPON_ISSUED', gen_random_uuid(), 1);
commit;
