-- Stores a batch of orders. An order whose id exists is left as it is, with its items and its shipping.
--
-- One element for each order; no two have one id:
--   $1 id
--   $2 user_id
--   $3 amount
--   $4 currency
--   $5 fingerprint
--   $6 idempotency_key
--   $7 hold_expires_at
-- One element for each line of an order:
--   $8 order_id
--   $9 line, from 0
--   $10 product_id
--   $11 sku
--   $12 name
--   $13 quantity
--   $14 unit_price
-- One element for each order with an address:
--   $15 order_id
--   $16 recipient
--   $17 phone
--   $18 postal_code
--   $19 address
--   $20 memo, or null
with placed as (
    insert into orders
           (id, user_id, amount, currency, fingerprint, idempotency_key, hold_expires_at, first_hold_expires_at)
    select draft.*, draft.hold_expires_at
    from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::timestamptz[])
        as draft (id, user_id, amount, currency, fingerprint, idempotency_key, hold_expires_at)
    on conflict (id) do nothing
    returning id, created_at
),
placed_items as (
    insert into order_items (order_id, line, product_id, sku, name, quantity, unit_price)
    select item.order_id, item.line, item.product_id, item.sku, item.name, item.quantity, item.unit_price
    from unnest($8::uuid[], $9::smallint[], $10::uuid[], $11::text[], $12::text[], $13::int[], $14::bigint[])
        as item (order_id, line, product_id, sku, name, quantity, unit_price)
    join placed on placed.id = item.order_id
),
placed_shipping as (
    insert into shipping_info (order_id, recipient, phone, postal_code, address, memo)
    select info.*
    from unnest($15::uuid[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[])
        as info (order_id, recipient, phone, postal_code, address, memo)
    join placed on placed.id = info.order_id
)
select id, created_at from placed
