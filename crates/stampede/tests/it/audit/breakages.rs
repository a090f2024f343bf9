//! What is broken by hand, in SQL, and which invariants must say so.

/// What is broken, how, how it is mended, and which invariants must say so. `{first}` and `{second}` are orders of one
/// buyer, who placed the first with `{key}` and has prepared a payment for the second; `{paid}` is paid.
pub const BREAKAGES: &[(&str, &str, &str, &[&str])] = &[
    (
        "more is held than there is",
        "alter table {inventory}.stocks drop constraint held_is_covered; update {inventory}.stocks set held = on_hand + 1",
        "update {inventory}.stocks set held = 3;
         alter table {inventory}.stocks add constraint held_is_covered check (held <= on_hand)",
        &["I1", "I2"],
    ),
    (
        "held is not what the holds hold",
        "update {inventory}.stocks set held = held + 1",
        "update {inventory}.stocks set held = held - 1",
        &["I2"],
    ),
    (
        "units on hand came from nowhere",
        "update {inventory}.stocks set on_hand = on_hand + 1",
        "update {inventory}.stocks set on_hand = on_hand - 1",
        &["I2"],
    ),
    (
        "a sale is booked that never was",
        "insert into {inventory}.product_stock_audit (product_id, hold_id, kind, delta, on_hand_after, held_after, stock_version)
         select product_id, '{first}', 'CONFIRM', 0, on_hand, held, version from {inventory}.stocks",
        "delete from {inventory}.product_stock_audit where kind = 'CONFIRM' and hold_id = '{first}'",
        &["I3"],
    ),
    (
        "an order has more items than its hold and its amount",
        "update {order}.order_items set quantity = quantity + 1 where order_id = '{first}'",
        "update {order}.order_items set quantity = quantity - 1 where order_id = '{first}'",
        &["I4"],
    ),
    (
        "an order lives and its hold does not",
        "update {inventory}.holds set state = 'RELEASED' where hold_id = '{first}'",
        "update {inventory}.holds set state = 'HELD' where hold_id = '{first}'",
        &["I2", "I4"],
    ),
    (
        "an order lives longer than its hold",
        "update {inventory}.holds set state = 'EXPIRED', expires_at = expires_at - interval '1 hour' where hold_id = '{first}'",
        "update {inventory}.holds set state = 'HELD', expires_at = expires_at + interval '1 hour' where hold_id = '{first}'",
        &["I2", "I4"],
    ),
    (
        "an order ended, nobody was told, and its hold goes on",
        "update {order}.orders set status = 'CANCELLED' where id = '{first}'",
        "update {order}.orders set status = 'CREATED' where id = '{first}'",
        &["I4"],
    ),
    (
        "two orders have one key",
        "update {order}.orders set idempotency_key = (select idempotency_key from {order}.orders where id = '{second}') where id = '{first}'",
        "update {order}.orders set idempotency_key = '{key}' where id = '{first}'",
        &["I8"],
    ),
    (
        "another order was announced than the one that is stored",
        "update {order}.outbox_events set payload = replace(payload, '\"amount\":\"', '\"amount\":\"7') where key = '{first}'",
        "update {order}.outbox_events set payload = replace(payload, '\"amount\":\"7', '\"amount\":\"') where key = '{first}'",
        &["I9"],
    ),
    (
        "an order was never announced",
        "create table {order}.kept as select * from {order}.outbox_events where key = '{first}';
         delete from {order}.outbox_events where key = '{first}'",
        "insert into {order}.outbox_events overriding system value select * from {order}.kept; drop table {order}.kept",
        &["I9"],
    ),
    (
        "an order was announced twice",
        "insert into {order}.outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, status, published_at)
         select '{first}', shard, aggregate_type, topic, key, 99, payload, 'PUBLISHED', now()
           from {order}.outbox_events where key = '{first}' and topic = 'ORDER_CREATED'",
        "delete from {order}.outbox_events where aggregate_version = 99",
        &["I9", "I11", "I12", "I13"],
    ),
    (
        "an event was given up",
        "update {order}.outbox_events set status = 'DEAD' where key = '{first}'",
        "update {order}.outbox_events set status = 'PUBLISHED' where key = '{first}'",
        &["I11"],
    ),
    (
        "an event counts as published and is not in Kafka",
        "insert into {inventory}.outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, status, published_at)
         values ('{first}', 0, 'stock', 'STOCK_DEPLETED', '{first}', 1, '{}', 'PUBLISHED', now())",
        "delete from {inventory}.outbox_events where event_id = '{first}'",
        &["I11", "I12"],
    ),
    (
        "a service recorded an event that it does not say it produces",
        "insert into {inventory}.outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, status, published_at)
         values ('{first}', 0, 'stock', 'ORDER_PLACED', '{first}', 1, '{}', 'PUBLISHED', now())",
        "delete from {inventory}.outbox_events where event_id = '{first}'",
        &["I11", "I12"],
    ),
    (
        "a consumer has not applied an event",
        "create table {inventory}.kept as select * from {inventory}.inbox; delete from {inventory}.inbox",
        "insert into {inventory}.inbox select * from {inventory}.kept; drop table {inventory}.kept",
        &["I12"],
    ),
    (
        "an event was applied and its effect is gone",
        "create table {notification_hub}.kept_notes as select * from {notification_hub}.notifications where data ->> 'orderId' = '{first}';
         create table {notification_hub}.kept as select * from {notification_hub}.deliveries where notification_id in (select id from {notification_hub}.kept_notes);
         delete from {notification_hub}.deliveries where notification_id in (select id from {notification_hub}.kept_notes);
         delete from {notification_hub}.notifications where id in (select id from {notification_hub}.kept_notes)",
        "insert into {notification_hub}.notifications select * from {notification_hub}.kept_notes; insert into {notification_hub}.deliveries select * from {notification_hub}.kept;
         drop table {notification_hub}.kept_notes; drop table {notification_hub}.kept",
        &["I12", "I13"],
    ),
    (
        "somebody was notified of nothing",
        "insert into {notification_hub}.notifications (id, event_id, type, data) values ('{first}', '{first}', 'ORDER_CREATED', '{}');
         insert into {notification_hub}.deliveries (id, notification_id, channel, status, priority, subject, body)
         values ('{first}', '{first}', 'EMAIL', 'SUCCESS', 1, '', '')",
        "delete from {notification_hub}.deliveries where id = '{first}'; delete from {notification_hub}.notifications where id = '{first}'",
        &["I13"],
    ),
    (
        "a kind of notification has no channel",
        "update {notification_hub}.notifications set type = 'UNKNOWN' where data ->> 'orderId' = '{first}'",
        "update {notification_hub}.notifications set type = 'ORDER_CREATED' where type = 'UNKNOWN'",
        &["I13"],
    ),
    (
        "a notification has no delivery",
        "create table {notification_hub}.kept as select * from {notification_hub}.deliveries; delete from {notification_hub}.deliveries",
        "insert into {notification_hub}.deliveries select * from {notification_hub}.kept; drop table {notification_hub}.kept",
        &["I13"],
    ),
    (
        "a delivery was never made",
        "update {notification_hub}.deliveries set status = 'PENDING', next_attempt_at = now() + interval '1 day'",
        "update {notification_hub}.deliveries set status = 'SUCCESS'",
        &["I13"],
    ),
    (
        "a delivery was given up",
        "update {notification_hub}.deliveries set status = 'FAILED', dead_lettered_at = now()",
        "update {notification_hub}.deliveries set status = 'SUCCESS', dead_lettered_at = null",
        &["I13"],
    ),
    (
        "an order is sold and has forgotten who paid it",
        "create table {order}.kept as select * from {order}.orders where id = '{paid}';
         update {order}.orders set status = 'CANCELLED', paid_payment_id = null where id = '{paid}'",
        "update {order}.orders set status = kept.status, paid_payment_id = kept.paid_payment_id
           from {order}.kept where orders.id = kept.id;
         drop table {order}.kept",
        &["I4", "I5", "I6"],
    ),
    (
        "nobody was told that an order is paid",
        "create table {order}.kept as select * from {order}.outbox_events where key = '{paid}' and topic = 'ORDER_PLACED';
         delete from {order}.outbox_events where key = '{paid}' and topic = 'ORDER_PLACED'",
        "insert into {order}.outbox_events overriding system value select * from {order}.kept; drop table {order}.kept",
        &["I5"],
    ),
    (
        "a payment took another amount than the order's",
        "update {payment}.payments set amount = amount + 1, captured = captured + 1 where order_id = '{paid}'",
        "update {payment}.payments set amount = amount - 1, captured = captured - 1 where order_id = '{paid}'",
        &["I6"],
    ),
    (
        "money was given back by no refund",
        "update {payment}.refunds set status = 'FAILED'",
        "update {payment}.refunds set status = 'SUCCEEDED'",
        &["I6"],
    ),
    (
        "a balance is not what was charged",
        "update {payment}.point set balance = balance + 1",
        "update {payment}.point set balance = balance - 1",
        &["I7"],
    ),
    (
        "points came from nowhere",
        "alter table {payment}.point_entries disable trigger user;
         update {payment}.point_entries set amount = amount + 1 where account = 'ISSUED'",
        "update {payment}.point_entries set amount = amount - 1 where account = 'ISSUED';
         alter table {payment}.point_entries enable trigger user",
        &["I7"],
    ),
    (
        "points are held for a payment that does not exist",
        "insert into {payment}.point_holds (payment_id, user_id, amount) values ('{first}', '{first}', 5)",
        "delete from {payment}.point_holds",
        &["I7"],
    ),
    (
        "a service has forgotten what it applied",
        "create table {payment}.kept as select * from {payment}.inbox; delete from {payment}.inbox",
        "insert into {payment}.inbox select * from {payment}.kept; drop table {payment}.kept",
        &["I12"],
    ),
    (
        "nobody ends a hold whose time is up",
        "update {inventory}.holds set expires_at = expires_at - interval '1 hour' where hold_id = '{first}'",
        "update {inventory}.holds set expires_at = expires_at + interval '1 hour' where hold_id = '{first}'",
        &["I17"],
    ),
    (
        "nobody asks what became of a payment",
        "update {payment}.payments set status = 'UNKNOWN', ask_at = null where order_id = '{second}'",
        "update {payment}.payments set status = 'PENDING' where order_id = '{second}'",
        &["I17"],
    ),
    (
        "a step is never done",
        "insert into {payment}.pending_steps (payment_id, step, attempt_id, created_at, next_try_at)
         select id, 'FREE_ORDER', id, now() - interval '2 minutes', now() + interval '1 hour'
         from {payment}.payments where order_id = '{second}'",
        "delete from {payment}.pending_steps",
        &["I17"],
    ),
    (
        "an order waits for a refund that nobody promised",
        "update {order}.orders set status = 'REFUND_PENDING' where id = '{paid}'",
        "update {order}.orders set status = 'PAID' where id = '{paid}'",
        &["I17"],
    ),
    (
        "a refund was refused and the money is still there",
        "insert into {payment}.refunds (id, payment_id, amount, reason, fingerprint, pg_payment_id, status, ask_at)
         select '{first}', id, amount, 'a test', '', pg_payment_id, 'FAILED', null
           from {payment}.payments where order_id = '{paid}'",
        "delete from {payment}.refunds where id = '{first}'",
        &["I17"],
    ),
    (
        "an order is reserved for nobody",
        "update {order}.orders set approving_payment_id = '{first}', approving_attempt_id = '{first}' where id = '{second}'",
        "update {order}.orders set approving_payment_id = null, approving_attempt_id = null where id = '{second}'",
        &["I17"],
    ),
    (
        "a hold is pinned for nobody",
        "update {inventory}.holds set state = 'PINNED', pinned_by = '{first}' where hold_id = '{first}'",
        "update {inventory}.holds set state = 'HELD', pinned_by = null where hold_id = '{first}'",
        &["I17"],
    ),
    (
        "a product came back, and no restock round began",
        "insert into {inventory}.outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, status, published_at)
         values ('{first}', 0, 'stock', 'STOCK_REPLENISHED', '{first}', 1, '{\"restockRound\":\"7\"}', 'PUBLISHED', now());
         insert into {notification_hub}.inbox (consumer, event_id) values ('notification-hub', '{first}')",
        "delete from {inventory}.outbox_events where event_id = '{first}';
         delete from {notification_hub}.inbox where event_id = '{first}'",
        &["I11", "I12"],
    ),
    (
        "a subscriber was left out of a restock round that says it is completed",
        "insert into {notification_hub}.product_user_notification (product_id, user_id)
         select product_id, gen_random_uuid() from {inventory}.stocks;
         insert into {notification_hub}.product_notification_history
             (product_id, round, id, status, stock_version, ceiling, start_tx, end_tx, ended_at)
         select product_id, 1, gen_random_uuid(), 'COMPLETED', 1, 1, 1, tx_id + 1, now()
           from {notification_hub}.product_user_notification",
        "delete from {notification_hub}.product_notification_history;
         delete from {notification_hub}.product_user_notification",
        &["I19"],
    ),
    (
        "a coupon counts an issue that is not stored",
        "insert into {coupon}.coupons (id, name, discount_kind, discount_value, currency, minimum_amount, total, issued,
                                       starts_at, expires_at, restored_on_refund, fingerprint)
         values ('{first}', 'coupon', 'PERCENT', 10, 'KRW', 0, 5, 1, now(), now() + interval '1 hour', true, '')",
        "update {coupon}.coupons set issued = 0",
        &["I10"],
    ),
    (
        "a coupon was issued, and nobody was told",
        "update {coupon}.coupons set issued = 1;
         insert into {coupon}.coupon_issue (id, coupon_id, user_id, take_id, issued_at)
         values ('{first}', '{first}', '{second}', '1:1-0', now())",
        "insert into {coupon}.outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, status, published_at)
         values ('{first}', 0, 'coupon', 'COUPON_ISSUED', '{first}:{second}', 1, '{\"issueId\":\"{first}\"}', 'PUBLISHED',
                 now() - interval '9 days')",
        &["I10"],
    ),
    (
        "an order that is not paid has redeemed a coupon",
        "insert into {coupon}.coupon_redemptions (order_id, coupon_issue_id, state, expires_at)
         values ('{first}', '{first}', 'CONFIRMED', now())",
        "delete from {coupon}.coupon_redemptions; delete from {coupon}.outbox_events where topic = 'COUPON_ISSUED';
         delete from {coupon}.coupon_issue; delete from {coupon}.coupons",
        &["I10"],
    ),
    (
        "one seat is sold to two buyers",
        "insert into {inventory}.concert (concert_id, title, starts_at) values ('00000000-0000-0000-0000-0000000000a1', 'Recital', now());
         insert into {inventory}.products (id, sku, name, price_amount, currency, concert_id)
         values ('00000000-0000-0000-0000-0000000000a1', 'seats', 'Seats', 1, 'KRW', '00000000-0000-0000-0000-0000000000a1');
         insert into {inventory}.stocks (product_id, on_hand, held) values ('00000000-0000-0000-0000-0000000000a1', 1, 0);
         insert into {inventory}.seat (seat_id, concert_id, product_id, label, place)
         values ('00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000a1', 'A-1', 1);
         insert into {inventory}.holds (hold_id, user_id, state, expires_at)
         select id, '00000000-0000-0000-0000-0000000000b2', 'CONFIRMED', now() from unnest(array['00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000b2']::uuid[]) as id;
         insert into {inventory}.hold_lines (hold_id, product_id, quantity, unit_price, currency, sku, name, seats)
         select id, '00000000-0000-0000-0000-0000000000a1', 1, 1, 'KRW', 'seats', 'Seats', '[{\"seatId\":\"00000000-0000-0000-0000-0000000000a1\",\"label\":\"A-1\"}]'
           from unnest(array['00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000b2']::uuid[]) as id",
        "delete from {inventory}.hold_lines where sku = 'seats';
         delete from {inventory}.holds where user_id = '00000000-0000-0000-0000-0000000000b2' and hold_id in ('00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000b2');
         delete from {inventory}.seat; delete from {inventory}.stocks where product_id = '00000000-0000-0000-0000-0000000000a1';
         delete from {inventory}.products where sku = 'seats'; delete from {inventory}.concert",
        &["I2", "I3", "I5", "I14"],
    ),
    (
        "a sale was opened too early, and nobody was told",
        "insert into {queue}.sale_events (id, name, status, opens_at, opened_at, product_ids, queue_manage_required, max_active,
             rate_per_minute, session_seconds, claim_seconds, waiting_max, verify_offline, closed_on_outage, pass_public_key,
             pass_private_key, draw_seed, fingerprint, created_by)
         values ('{first}', 'a sale', 'OPEN', now() + interval '1 hour', now(), array['{first}']::uuid[], false, 1, 1, 1, 1, 1,
             false, false, decode(repeat('00', 32), 'hex'), '', decode(repeat('00', 32), 'hex'), '', '{first}')",
        "delete from {queue}.sale_events where id = '{first}'",
        &["I18"],
    ),
    (
        "more have had their turn than have a number",
        "insert into {queue}.sale_events (id, name, opens_at, product_ids, queue_manage_required, max_active, rate_per_minute,
             session_seconds, claim_seconds, waiting_max, verify_offline, closed_on_outage, pass_public_key, pass_private_key,
             draw_seed, fingerprint, created_by)
         values ('{first}', 'a sale', now() + interval '1 hour', array['{first}']::uuid[], true, 1, 1, 1, 1, 1, false, false,
             decode(repeat('00', 32), 'hex'), '', decode(repeat('00', 32), 'hex'), '', '{first}');
         insert into {queue}.rooms (event_id, front) values ('{first}', 1)",
        "delete from {queue}.rooms where event_id = '{first}'; delete from {queue}.sale_events where id = '{first}'",
        &["I16"],
    ),
    (
        "an order is archived and still there",
        "insert into {order}.orders_archive select orders.*, now() from {order}.orders where id = '{paid}'",
        "delete from {order}.orders_archive where id = '{paid}'",
        &["I8", "I20"],
    ),
    (
        "the items of a live order are archived",
        "with moved as (delete from {order}.order_items where order_id = '{first}' returning *)
         insert into {order}.order_items_archive select * from moved",
        "with moved as (delete from {order}.order_items_archive where order_id = '{first}' returning *)
         insert into {order}.order_items select * from moved",
        &["I20"],
    ),
    (
        "an archived order has lost its items",
        "with moved as (delete from {order}.orders where id = '{paid}' returning *)
         insert into {order}.orders_archive select moved.*, now() from moved;
         create table {order}.kept as select * from {order}.order_items where order_id = '{paid}';
         delete from {order}.order_items where order_id = '{paid}'",
        "insert into {order}.order_items select * from {order}.kept; drop table {order}.kept;
         set search_path to {order};
         with moved as (delete from {order}.orders_archive where id = '{paid}' returning *)
         insert into {order}.orders
         select id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
                first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
                ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id
           from moved",
        &["I4", "I6"],
    ),
];
