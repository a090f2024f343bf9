-- Inserts new holds with all their lines.
-- $1 now
-- One element for each hold: $2 hold id  $3 user id  $4 when it expires  $5 the concert whose seats it reserves, or null
-- One element for each line: $6 hold id  $7 product id  $8 quantity  $9 unit price  $10 currency  $11 SKU  $12 name
-- $13 seats, as JSON, or null
with headers as (
    insert into holds (hold_id, user_id, state, expires_at, concert_id, created_at, updated_at)
    select new.hold_id, new.user_id, 'HELD', new.expires_at, new.concert_id, $1::timestamptz, $1
      from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::uuid[]) as new (hold_id, user_id, expires_at, concert_id)
     -- Two batches with several ids in common insert them in one order, or they would deadlock.
     order by new.hold_id
)
insert into hold_lines (hold_id, product_id, quantity, unit_price, currency, sku, name, seats)
select new.hold_id, new.product_id, new.quantity, new.unit_price, new.currency, new.sku, new.name, new.seats::jsonb
  from unnest($6::uuid[], $7::uuid[], $8::int[], $9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[])
       as new (hold_id, product_id, quantity, unit_price, currency, sku, name, seats)
