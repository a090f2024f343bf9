-- Whatever ends by itself has somebody who ends it.
select format('order %s is REFUND_PENDING since %s and no refund of payment %s is under way', orders.id,
              orders.updated_at, orders.paid_payment_id) as offender
from {order}.all_orders as orders
left join {payment}.refunds as refund
       on refund.payment_id = orders.paid_payment_id and refund.status = 'PENDING' and not refund.stray
where orders.status = 'REFUND_PENDING' and refund.id is null
  -- The request for a refund and the news of one are on their way by event.
  and orders.id::text not in (select key from {subscribed} as event where consumer = 'payment' and not is_applied)
  and orders.paid_payment_id::text not in (select key from {subscribed} as event where consumer = 'order' and not is_applied)
union all
-- The payment is APPROVING before it reserves anything, and has a step to do until it has let go of everything.
select format('order %s is reserved for attempt %s, which no payment is making', orders.id, orders.approving_attempt_id)
from {order}.all_orders as orders
left join {payment}.payments as payment
       on payment.id = orders.approving_payment_id
      and payment.attempt_id = orders.approving_attempt_id
      and (payment.status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW')
           or exists (select from {payment}.pending_steps as step where step.payment_id = payment.id))
where orders.approving_payment_id is not null and payment.id is null
union all
select format('hold %s is pinned for attempt %s, which no payment is making', hold.hold_id, hold.pinned_by)
from {inventory}.holds as hold
left join {payment}.payments as payment
       on payment.attempt_id = hold.pinned_by
      and (payment.status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW')
           or exists (select from {payment}.pending_steps as step where step.payment_id = payment.id))
left join {order}.all_orders as orders on orders.id = hold.hold_id and orders.status in ('PAID', 'REFUND_PENDING', 'REFUNDED')
where hold.state = 'PINNED' and payment.id is null
  -- Paid: it is about to become a sale.
  and orders.id is null
