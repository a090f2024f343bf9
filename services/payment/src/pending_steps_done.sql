-- Forgets steps that are done, unless a newer attempt needs them again. One element for each:
-- $1 payment
-- $2 step
-- $3 attempt
delete from pending_steps
using unnest($1::uuid[], $2::text[], $3::uuid[]) as done (payment_id, step, attempt_id)
where pending_steps.payment_id = done.payment_id
    and pending_steps.step = done.step
    and pending_steps.attempt_id = done.attempt_id
