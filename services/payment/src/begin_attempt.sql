-- $1 payment
-- $2 attempt
-- $3 the provider's payment id
-- $4 the provider's idempotency key
-- $5 amount
-- $6 milliseconds that the client waits for the provider; a second later the resolver asks
with attempt as (
    insert into payment_attempt (payment_id, id, pg_payment_id, idempotency_key, amount)
    values ($1, $2, $3, $4, $5)
)
update payments
set status = 'APPROVING',
    version = payments.version + 1,
    attempt_id = $2,
    pg_payment_id = $3,
    approving_since = clock_timestamp(),
    requested_at = clock_timestamp(),
    ask_at = clock_timestamp() + ($6 + 1000) * interval '1 millisecond',
    asked = 0,
    absent_since = null,
    undo_at = null,
    updated_at = clock_timestamp()
where id = $1
returning *
