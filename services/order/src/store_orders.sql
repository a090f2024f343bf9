-- Stores a batch of orders. An order whose id exists, in the archive too, is left as it is, with its items and its
-- shipping.
--
-- One element for each order; no two have one id:
--   $1 id
--   $2 user_id
--   $3 amount
--   $4 currency
--   $5 fingerprint
--   $6 idempotency_key
--   $7 hold_expires_at
--   $8 coupon_issue_id, or null
-- One element for each line of an order:
--   $9 order_id
--   $10 line, from 0
--   $11 product_id
--   $12 sku
--   $13 name
--   $14 quantity
--   $15 unit_price
--   $16 discount
--   $17 labels of seats, as a JSON array, or null
-- One element for each order with an address:
--   $18 order_id
--   $19 recipient
--   $20 phone
--   $21 postal_code
--   $22 address
--   $23 memo, or null
with placed as (
    insert into orders
           (id, user_id, amount, currency, fingerprint, idempotency_key, hold_expires_at, coupon_issue_id,
            first_hold_expires_at)
    select draft.*, draft.hold_expires_at
    from unnest(
            $1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::timestamptz[], $8::uuid[]
        ) as draft (id, user_id, amount, currency, fingerprint, idempotency_key, hold_expires_at, coupon_issue_id)
    where not exists (select from orders_archive where orders_archive.id = draft.id)
    on conflict (id) do nothing
    returning id, created_at
),
placed_items as (
    insert into order_items (order_id, line, product_id, sku, name, quantity, unit_price, discount, seats)
    select item.order_id, item.line, item.product_id, item.sku, item.name, item.quantity, item.unit_price, item.discount,
           case when item.seats is null then '{}'
                else array(select jsonb_array_elements_text(item.seats::jsonb))
           end
    from unnest(
            $9::uuid[], $10::smallint[], $11::uuid[], $12::text[], $13::text[], $14::int[], $15::bigint[], $16::bigint[],
            $17::text[]
        ) as item (order_id, line, product_id, sku, name, quantity, unit_price, discount, seats)
    join placed on placed.id = item.order_id
),
placed_shipping as (
    insert into shipping_info (order_id, recipient, phone, postal_code, address, memo)
    select info.*
    from unnest($18::uuid[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[])
        as info (order_id, recipient, phone, postal_code, address, memo)
    join placed on placed.id = info.order_id
)
select id, created_at from placed
