-- Orders that were placed and cancelled long ago, each with a line, an address and its released hold.
--
--   $1 ids
--   $2 their keys
--   $3 the buyer
--   $4 the product
with old as (
    select id, key, now() - interval '200 days' + place * interval '1 second' as at
    from unnest($1::uuid[], $2::text[]) with ordinality as old (id, key, place)
),
placed as (
    insert into {order}.orders
           (id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
            first_hold_expires_at, created_at, updated_at, cancel_reason)
    select id, $3, 'CANCELLED', 2, 1000, 'KRW', '', key, at + interval '10 minutes', at + interval '10 minutes', at,
           at + interval '1 minute', 'cancelled by the buyer'
    from old
),
placed_items as (
    insert into {order}.order_items (order_id, line, product_id, sku, name, quantity, unit_price)
    select id, 0, $4, 'OLD', 'Old', 1, 1000 from old
),
placed_shipping as (
    insert into {order}.shipping_info (order_id, recipient, phone, postal_code, address)
    select id, 'Kim', '010-0000-0000', '04524', 'Seoul' from old
),
held as (
    insert into {inventory}.holds (hold_id, user_id, state, expires_at, created_at, updated_at)
    select id, $3, 'RELEASED', at + interval '10 minutes', at, at + interval '1 minute' from old
),
held_lines as (
    insert into {inventory}.hold_lines (hold_id, product_id, quantity, unit_price, currency, sku, name)
    select id, $4, 1, 1000, 'KRW', 'OLD', 'Old' from old
)
select count(*) as orders from old
