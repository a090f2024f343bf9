with headers as (
    insert into holds (hold_id, user_id, state, expires_at, created_at, updated_at)
    select wanted.hold_id, wanted.user_id, 'HELD', $3, $4, $4
      from unnest($1::uuid[], $2::uuid[]) as wanted (hold_id, user_id)
     -- Two batches with a common id must meet it in one order, or they would wait for each other.
     order by wanted.hold_id
)
insert into hold_lines (hold_id, product_id, quantity, unit_price, currency, sku, name)
select *
  from unnest($5::uuid[], $6::uuid[], $7::int[], $8::bigint[], $9::text[], $10::text[], $11::text[])
