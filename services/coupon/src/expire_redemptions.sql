-- Sets reservations whose time is up to EXPIRED, the oldest first, except those whose issue somebody has locked: the next
-- look finds them again.
-- $1 redemptions at most
--
-- `due` finds more than are set: if the first ones are locked, others take their place. It does not join the issues: with a
-- condition on the issue, PostgreSQL may search the index of living redemptions instead of that of reservations.
with due as materialized (
    select coupon_redemptions.order_id, coupon_redemptions.coupon_issue_id
      from coupon_redemptions
     where coupon_redemptions.state = 'RESERVED'
       -- STABLE, so that the index on reservations is searched by it.
       and coupon_redemptions.expires_at <= statement_timestamp()
     order by coupon_redemptions.expires_at
     limit 4 * $1::bigint
),
locked as materialized (
    select due.order_id
      from due
      join coupon_issue on coupon_issue.id = due.coupon_issue_id
     limit $1::bigint
       for update of coupon_issue skip locked
)
update coupon_redemptions
   set state = 'EXPIRED',
       updated_at = clock_timestamp()
  from locked
 where coupon_redemptions.order_id = locked.order_id
   -- It may have changed before its issue was locked: the row is looked at again then.
   and coupon_redemptions.state = 'RESERVED'
   and coupon_redemptions.expires_at <= clock_timestamp()
