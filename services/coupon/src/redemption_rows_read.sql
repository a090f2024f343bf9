-- The redemptions of some orders and the living ones of some issues, with the time.
-- $1 order ids  $2 issue ids
select clock_timestamp() as now, redemption.order_id, redemption.coupon_issue_id, issue.coupon_id, issue.user_id,
       redemption.state, redemption.expires_at, redemption.pinned_by, redemption.pinned_late, redemption.unpinned_by,
       redemption.order_version, redemption.discount, redemption.currency, redemption.lines,
       redemption.restored_on_refund
  from (select coupon_redemptions.*
          from coupon_redemptions
         where coupon_redemptions.order_id = any($1::uuid[])
         union
        select coupon_redemptions.*
          from coupon_redemptions
         where coupon_redemptions.coupon_issue_id = any($2::uuid[])
           and coupon_redemptions.state in ('RESERVED', 'PINNED', 'CONFIRMED')) as redemption
  left join coupon_issue as issue on issue.id = redemption.coupon_issue_id
