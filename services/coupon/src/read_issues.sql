-- A user's coupons, the newest first, with the redemption that each lives in, and the time.
-- $1 user id  $2 coupon id, or null for all  $3 issued before, or null  $4 or at that time with a lower id  $5 rows at most
select clock_timestamp() as now, issue.id, issue.coupon_id, issue.issued_at, coupons.name, coupons.discount_kind,
       coupons.discount_value, coupons.minimum_amount, coupons.maximum_discount, coupons.product_ids, coupons.expires_at,
       redemption.order_id, redemption.state, redemption.expires_at as reserved_until
  from coupon_issue as issue
  join coupons on coupons.id = issue.coupon_id
  left join coupon_redemptions as redemption
    on redemption.coupon_issue_id = issue.id and redemption.state in ('RESERVED', 'PINNED', 'CONFIRMED')
 where issue.user_id = $1::uuid
   and ($2::uuid is null or issue.coupon_id = $2)
   and ($3::timestamptz is null or issue.issued_at <= $3)
   and ($3 is null or issue.issued_at < $3 or issue.id < $4::uuid)
 order by issue.issued_at desc, issue.id desc
 limit $5::bigint
