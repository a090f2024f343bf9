-- Writes the states of redemptions. The reason and the time of the last change of state stay if the state does.
-- $1 now
-- One element for each redemption: $2 order id  $3 state  $4 when it expires  $5 the attempt that pins it  $6 pinned late?
-- $7 ended attempts, as the text of an array: arrays of different lengths cannot be unnested side by side
-- $8 version of the order  $9 reason
update coupon_redemptions
   set state = changes.state,
       expires_at = changes.expires_at,
       pinned_by = changes.pinned_by,
       pinned_late = changes.pinned_late,
       unpinned_by = changes.unpinned_by::uuid[],
       order_version = changes.order_version,
       reason = case when coupon_redemptions.state = changes.state then coupon_redemptions.reason else changes.reason end,
       updated_at = case when coupon_redemptions.state = changes.state then coupon_redemptions.updated_at
                         else $1::timestamptz end
  from unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::uuid[], $6::bool[], $7::text[], $8::bigint[], $9::text[])
       as changes (order_id, state, expires_at, pinned_by, pinned_late, unpinned_by, order_version, reason)
 where coupon_redemptions.order_id = changes.order_id
