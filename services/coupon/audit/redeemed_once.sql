-- An issued coupon is in one order at most, a redemption takes off what its lines do, and each was told once.
select format('issue %s is in %s orders: %s', coupon_issue_id, count(*), string_agg(order_id::text, ', ')) as offender
from {coupon}.coupon_redemptions
where state in ('RESERVED', 'PINNED', 'CONFIRMED')
group by coupon_issue_id
having count(*) > 1
union all
select format('order %s: discount %s, of its lines %s', redemption.order_id, redemption.discount, coalesce(lines.discount, 0))
from {coupon}.coupon_redemptions as redemption
left join lateral (
    select sum((line ->> 'discount')::bigint) as discount
    from jsonb_array_elements(redemption.lines) as line
) as lines on true
where redemption.discount <> coalesce(lines.discount, 0)
union all
select format('order %s has redeemed issue %s, and COUPON_REDEEMED was told %s times', redemption.order_id,
              redemption.coupon_issue_id, told.times)
from {coupon}.coupon_redemptions as redemption
cross join lateral (
    select count(*) as times
    from {coupon}.outbox_events as event
    where event.topic = 'COUPON_REDEEMED' and event.key = redemption.coupon_issue_id::text
      and event.payload::json ->> 'orderId' = redemption.order_id::text
) as told
where redemption.state in ('CONFIRMED', 'RESTORED') and told.times <> 1
  and redemption.updated_at > now() - interval '{outbox_retention_hours} hours'
  -- A refund may come long after the payment.
  and redemption.created_at > now() - interval '{outbox_retention_hours} hours'
