-- Inserts reservations and tombstones, except where a redemption of the order has appeared meanwhile.
-- $1 now
-- One element for each redemption: $2 order id  $3 issue id, null for a tombstone  $4 state  $5 when it expires
-- $6 discount  $7 currency  $8 discounts of the lines  $9 the attempt that pins it  $10 pinned late?
-- $11 ended attempts, as the text of an array: arrays of different lengths cannot be unnested side by side
-- $12 version of the order  $13 reason  $14 restored on refund?, null for a tombstone
insert into coupon_redemptions
       (order_id, coupon_issue_id, state, expires_at, discount, currency, lines, pinned_by, pinned_late, unpinned_by,
        order_version, reason, restored_on_refund, created_at, updated_at)
select new.order_id, new.issue_id, new.state, new.expires_at, new.discount, new.currency, new.lines, new.pinned_by,
       new.pinned_late, new.unpinned_by::uuid[], new.order_version, new.reason, new.restored_on_refund,
       $1::timestamptz, $1
  from unnest($2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bigint[], $7::text[], $8::jsonb[], $9::uuid[],
              $10::bool[], $11::text[], $12::bigint[], $13::text[], $14::bool[])
       as new (order_id, issue_id, state, expires_at, discount, currency, lines, pinned_by, pinned_late, unpinned_by,
               order_version, reason, restored_on_refund)
 -- Two batches with several ids in common insert them in one order, or they would deadlock.
 order by new.order_id
    on conflict (order_id) do nothing
