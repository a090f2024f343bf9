-- Records movements of units on hand, in their order.
-- $1 now
-- One element for each movement: $2 product id  $3 hold id  $4 kind  $5 units  $6 on hand after it  $7 reason
insert into product_stock_audit
       (product_id, hold_id, kind, delta, on_hand_after, held_after, stock_version, reason, created_at)
select audits.product_id, audits.hold_id, audits.kind, audits.delta, audits.on_hand_after, stocks.held,
       stocks.version, audits.reason, $1::timestamptz
  from unnest($2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::bigint[], $7::text[])
       with ordinality as audits (product_id, hold_id, kind, delta, on_hand_after, reason, place)
  join stocks on stocks.product_id = audits.product_id
 order by audits.place
