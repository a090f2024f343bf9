-- Loops ask the provider, settle what is owed and pursue refunds.
select format('payment %s is %s since %s and nobody asks the provider: due %s', id, status, approving_since,
              coalesce(ask_at::text, 'never')) as offender
from {payment}.payments
where status in ('APPROVING', 'UNKNOWN') and (ask_at is null or ask_at < now() - interval '1 minute')
union all
select format('step %s of payment %s is not done since %s', step, payment_id, created_at)
from {payment}.pending_steps
where created_at < now() - interval '1 minute'
union all
select format('refund %s of payment %s is PENDING since %s and nobody asks the provider: due %s', id, payment_id,
              created_at, coalesce(ask_at::text, 'never'))
from {payment}.refunds
where status = 'PENDING' and (ask_at is null or ask_at < now() - interval '1 minute')
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
