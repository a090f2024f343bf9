-- A payment's sums are those of its refunds and of the attempt that succeeded.
with returned as (
    select payment_id, sum(amount) as amount
    from {payment}.refunds
    -- Of what was taken twice, the second is no part of the payment's sums: it only ever goes back.
    where status = 'SUCCEEDED' and not stray
    group by payment_id
),
answered as (
    select distinct payment_id, pg_payment_id
    from {payment}.payment_attempt
    where status = 'SUCCESS'
)
select format('payment %s: refunded %s, its refunds make %s', payment.id, payment.refunded, coalesce(returned.amount, 0)) as offender
from {payment}.payments as payment
left join returned on returned.payment_id = payment.id
where payment.refunded <> coalesce(returned.amount, 0)
union all
select format('payment %s is %s: captured %s as %s, and no attempt at that succeeded', payment.id, payment.status,
              payment.captured, coalesce(payment.pg_payment_id, 'nothing'))
from {payment}.payments as payment
left join answered on answered.payment_id = payment.id and answered.pg_payment_id = payment.pg_payment_id
where payment.captured > 0 and answered.payment_id is null
