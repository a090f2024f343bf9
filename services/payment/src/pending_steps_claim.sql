-- Claims the steps of payments of which one is due. The loop leaves them alone for a while then.
-- $1 how many payments
-- $2 seconds for which the loop leaves them alone
with waiting as (
    select payment_id
    from pending_steps
    where next_try_at <= statement_timestamp()
    group by payment_id
    order by min(next_try_at)
    limit $1
),
claimed as (
    -- All steps of a payment go to one process, since they have an order.
    select payments.id
    from payments
    join waiting on waiting.payment_id = payments.id
    order by payments.id
    for no key update of payments skip locked
)
update pending_steps
set next_try_at = clock_timestamp() + $2 * interval '1 second'
from claimed
where pending_steps.payment_id = claimed.id and pending_steps.next_try_at <= statement_timestamp()
returning pending_steps.payment_id, pending_steps.attempt_id, pending_steps.step
