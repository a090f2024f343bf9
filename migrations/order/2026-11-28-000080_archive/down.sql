-- Archived orders come back first: they are promises like all others.
drop trigger orders_in_one_place on orders;
drop function refuse_archived_orders;
insert into orders
       (id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
        first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
        ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id)
select id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
       first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
       ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id
from orders_archive;
insert into order_items (order_id, line, product_id, sku, name, quantity, unit_price, discount, seats)
select order_id, line, product_id, sku, name, quantity, unit_price, discount, seats from order_items_archive;
insert into shipping_info (order_id, recipient, phone, postal_code, address, memo)
select order_id, recipient, phone, postal_code, address, memo from shipping_info_archive;
drop view all_shipping_info;
drop view all_order_items;
drop view all_orders;
drop index orders_to_archive;
drop table archive_schedule;
drop table archive_runs;
drop table shipping_info_archive;
drop table order_items_archive;
drop table orders_archive;
