-- What became of an order became of its coupon. An order and its events go ahead of the redemption for a moment.
select format('order %s is %s and its coupon is %s', orders.id, orders.status, redemption.state) as offender
from {coupon}.coupon_redemptions as redemption
join {order}.all_orders as orders on orders.id = redemption.order_id
where ((orders.status in ('CANCELLED', 'EXPIRED')
        and (redemption.state = 'CONFIRMED'
             or (redemption.state = 'RESERVED' and redemption.expires_at > now())
             -- A late payment has pinned it, and its outcome ends that.
             or (redemption.state = 'PINNED' and not redemption.pinned_late)))
       or (orders.status in ('PAID', 'REFUND_PENDING') and redemption.state <> 'CONFIRMED')
       or (orders.status in ('CREATED', 'PENDING_PAYMENT') and redemption.state in ('CONFIRMED', 'RESTORED')))
  and orders.id::text not in (select key from {subscribed} as event where consumer = 'coupon' and not is_applied)
