-- What decides about requests to approve, besides the payments' own rows.
-- $1 payments
select
    payments.id as payment_id,
    (
        select count(*)
        from payments as sibling
        join payment_attempt on payment_attempt.payment_id = sibling.id
        where sibling.order_id = payments.order_id
    ) as attempts,
    exists (
        select from payments as sibling
        where sibling.order_id = payments.order_id
            and sibling.id <> payments.id
            and sibling.status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW')
    ) as is_other_open,
    exists (select from pending_steps where pending_steps.payment_id = payments.id) as has_steps
from payments
where payments.id = any ($1)
