-- Whatever ends by itself has somebody who ends it.
select format('hold %s is HELD although its time was up at %s', hold_id, expires_at) as offender
from {inventory}.holds
where state = 'HELD' and expires_at < now() - interval '5 seconds'
union all
select format('payment %s is %s since %s and nobody asks the provider: due %s', id, status, approving_since,
              coalesce(ask_at::text, 'never'))
from {payment}.payments
where status in ('APPROVING', 'UNKNOWN') and (ask_at is null or ask_at < now() - interval '1 minute')
union all
select format('payment %s is %s since %s and owes %s', id, status, updated_at,
              case when owes_release then 'the release of order and stock' else 'the order its answer' end)
from {payment}.payments
where (owes_release or owes_order) and updated_at < now() - interval '1 minute'
union all
select format('refund %s of payment %s is PENDING since %s and nobody asks the provider: due %s', id, payment_id,
              created_at, coalesce(ask_at::text, 'never'))
from {payment}.refunds
where status = 'PENDING' and (ask_at is null or ask_at < now() - interval '1 minute')
union all
select format('order %s is REFUND_PENDING since %s and no refund of payment %s is under way', orders.id,
              orders.updated_at, orders.paid_payment_id)
from {order}.orders
left join {payment}.refunds as refund
       on refund.payment_id = orders.paid_payment_id and refund.status = 'PENDING' and not refund.stray
where orders.status = 'REFUND_PENDING' and orders.updated_at < now() - interval '1 minute' and refund.id is null
union all
select format('refund %s of payment %s FAILED with %s, and %s of the captured %s are kept', refund.id, payment.id,
              coalesce(refund.pg_code, 'no code'), payment.captured - payment.refunded, payment.captured)
from {payment}.refunds as refund
join {payment}.payments as payment on payment.id = refund.payment_id
where refund.status = 'FAILED' and not refund.stray and payment.captured > payment.refunded
  -- Unless as much was promised again since.
  and refund.amount > (
      select coalesce(sum(later.amount), 0)
      from {payment}.refunds as later
      where later.payment_id = refund.payment_id and later.created_at > refund.created_at
        and later.status in ('PENDING', 'SUCCEEDED') and not later.stray
  )
union all
-- The payment is APPROVING before it reserves anything, and owes until it has let go of everything.
select format('order %s is reserved for attempt %s, which no payment is making', orders.id, orders.approving_attempt_id)
from {order}.orders
left join {payment}.payments as payment
       on payment.id = orders.approving_payment_id
      and payment.attempt_id = orders.approving_attempt_id
      and (payment.status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW') or payment.owes_release or payment.owes_order)
where orders.approving_payment_id is not null and payment.id is null
union all
select format('hold %s is pinned for attempt %s, which no payment is making', hold.hold_id, hold.pinned_by)
from {inventory}.holds as hold
left join {payment}.payments as payment
       on payment.attempt_id = hold.pinned_by
      and (payment.status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW') or payment.owes_release or payment.owes_order)
left join {order}.orders on orders.id = hold.hold_id and orders.status in ('PAID', 'REFUND_PENDING', 'REFUNDED')
where hold.state = 'PINNED' and payment.id is null
  -- Paid: it is about to become a sale.
  and orders.id is null
