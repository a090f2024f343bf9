-- Takes orders out of the archive, as they were. Those that are not in it are left alone.
--
--   $1 ids
with restored as (
    delete from orders_archive
    where id = any($1::uuid[])
    returning id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
              first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
              ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id
),
restored_items as (
    delete from order_items_archive
    using restored
    where order_id = restored.id
    returning order_id, line, product_id, sku, name, quantity, unit_price, discount, seats
),
restored_shipping as (
    delete from shipping_info_archive
    using restored
    where order_id = restored.id
    returning order_id, recipient, phone, postal_code, address, memo
),
live_items as (
    insert into order_items (order_id, line, product_id, sku, name, quantity, unit_price, discount, seats)
    select order_id, line, product_id, sku, name, quantity, unit_price, discount, seats from restored_items
),
live_shipping as (
    insert into shipping_info (order_id, recipient, phone, postal_code, address, memo)
    select order_id, recipient, phone, postal_code, address, memo from restored_shipping
)
insert into orders
       (id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
        first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
        ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id)
select id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
       first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
       ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id
from restored
