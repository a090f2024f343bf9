-- Sets reservations whose time is up to EXPIRED, the oldest first, except those whose issue somebody has locked.
-- $1 redemptions at most
with due as materialized (
    select coupon_redemptions.order_id
      from coupon_redemptions
      join coupon_issue on coupon_issue.id = coupon_redemptions.coupon_issue_id
     where coupon_redemptions.state = 'RESERVED'
       -- STABLE, so that the index on reservations is searched by it.
       and coupon_redemptions.expires_at <= statement_timestamp()
     order by coupon_redemptions.expires_at
     limit $1::bigint
       for update of coupon_issue skip locked
)
update coupon_redemptions
   set state = 'EXPIRED',
       updated_at = clock_timestamp()
  from due
 where coupon_redemptions.order_id = due.order_id
   -- It may have changed before its issue was locked: the row is looked at again then.
   and coupon_redemptions.state = 'RESERVED'
   and coupon_redemptions.expires_at <= clock_timestamp()
