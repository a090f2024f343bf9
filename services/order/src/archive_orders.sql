-- Moves a chunk of orders to the archive, with their items and addresses, and counts it in its run. One statement, so an
-- order is always in one of the two places.
--
--   $1 the run
--   $2 orders that have changed since then stay
--   $3 how many orders at most
--
-- `materialized` keeps the limit: a subquery may run again and take more rows. An order that somebody is changing is
-- skipped. So is one about which something is pending: an event that is not published, or one that waits for help. Each
-- `not in` is read once and hashed, however many events a sale beside it is publishing; a join would be planned for few.
with due as materialized (
    select id
    from orders
    where status in ('PAID', 'REFUNDED', 'CANCELLED', 'EXPIRED')
      and updated_at < $2
      and id::text not in (select key from outbox_events where status = 'NEW')
      and id::text not in (select key from outbox_events where status = 'DEAD')
      and id::text not in (select key from parked where key is not null)
      and coalesce(paid_payment_id::text, '') not in (select key from parked where key is not null)
    order by updated_at
    limit $3
    for update skip locked
),
moved as (
    delete from orders
    using due
    where orders.id = due.id
    returning orders.id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
              first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
              ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id
),
moved_items as (
    delete from order_items
    using due
    where order_id = due.id
    returning order_id, line, product_id, sku, name, quantity, unit_price, discount, seats
),
moved_shipping as (
    delete from shipping_info
    using due
    where order_id = due.id
    returning order_id, recipient, phone, postal_code, address, memo
),
archived as (
    insert into orders_archive
           (id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
            first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
            ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id)
    select * from moved
),
archived_items as (
    insert into order_items_archive (order_id, line, product_id, sku, name, quantity, unit_price, discount, seats)
    select * from moved_items
),
archived_shipping as (
    insert into shipping_info_archive (order_id, recipient, phone, postal_code, address, memo)
    select * from moved_shipping
),
chunk as (
    select (select count(*) from moved) as orders, (select count(*) from moved_items) as items
)
update archive_runs
set orders = archive_runs.orders + chunk.orders,
    items = archive_runs.items + chunk.items,
    chunks = archive_runs.chunks + least(chunk.orders, 1)
from chunk
where archive_runs.id = $1
returning chunk.orders
