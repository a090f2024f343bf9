-- Inserts new holds with all their lines.
-- $1 when they expire  $2 now  $3 hold ids  $4 user ids
-- $5 to $11, one element for each line: hold id, product id, quantity, unit price, currency, SKU, name
with headers as (
    insert into holds (hold_id, user_id, state, expires_at, created_at, updated_at)
    select new.hold_id, new.user_id, 'HELD', $1::timestamptz, $2::timestamptz, $2
      from unnest($3::uuid[], $4::uuid[]) as new (hold_id, user_id)
     -- Two batches with several ids in common insert them in one order, or they would deadlock.
     order by new.hold_id
)
insert into hold_lines (hold_id, product_id, quantity, unit_price, currency, sku, name)
select *
  from unnest($5::uuid[], $6::uuid[], $7::int[], $8::bigint[], $9::text[], $10::text[], $11::text[])
