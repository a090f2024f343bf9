-- Writes a batch of payments, each as it was decided under its lock, with what follows from that.
--
-- $1 now
-- One element for each payment:
-- $2 id
-- $3 the version under the lock
-- $4 status
-- $5 version
-- $6 attempt_id
-- $7 pg_payment_id
-- $8 captured
-- $9 expires_at
-- $10 approving_since
-- $11 requested_at
-- $12 ask_at
-- $13 asked
-- $14 absent_since
-- $15 undo_at
-- One element for each attempt that begins:
-- $16 its payment
-- $17 its id
-- $18 its pg_payment_id
-- $19 its idempotency key
-- $20 its amount
-- One element for each attempt of which something is known:
-- $21 its id
-- $22 its status
-- $23 the provider's code
-- $24 the provider's message
-- One element for each step that is to be done:
-- $25 its payment
-- $26 its name
-- $27 its attempt
-- $28 seconds after which the loop takes it
with begun as (
    insert into payment_attempt (payment_id, id, pg_payment_id, idempotency_key, amount, started_at)
    select *, $1 from unnest($16::uuid[], $17::uuid[], $18::text[], $19::text[], $20::bigint[])
),
noted as (
    update payment_attempt
    set status = known.status,
        pg_code = known.code,
        pg_message = known.message,
        ended_at = $1
    from unnest($21::uuid[], $22::text[], $23::text[], $24::text[]) as known (id, status, code, message)
    where payment_attempt.id = known.id
        and (
            payment_attempt.status in ('STARTED', 'UNKNOWN')
            or (known.status = 'SUCCESS' and payment_attempt.status <> 'SUCCESS')
        )
),
dropped as (
    -- What followed from an earlier state of these payments.
    delete from pending_steps
    where payment_id = any ($25::uuid[])
        and (payment_id, step) not in (select * from unnest($25::uuid[], $26::text[]))
),
owed as (
    insert into pending_steps (payment_id, step, attempt_id, created_at, next_try_at)
    select *, $1, $1 + $28 * interval '1 second' from unnest($25::uuid[], $26::text[], $27::uuid[])
    on conflict (payment_id, step) do update
    set attempt_id = excluded.attempt_id, next_try_at = excluded.next_try_at
)
update payments
set status = changed.status,
    version = changed.version,
    attempt_id = changed.attempt_id,
    pg_payment_id = changed.pg_payment_id,
    captured = changed.captured,
    expires_at = changed.expires_at,
    approving_since = changed.approving_since,
    requested_at = changed.requested_at,
    ask_at = changed.ask_at,
    asked = changed.asked,
    absent_since = changed.absent_since,
    undo_at = changed.undo_at,
    updated_at = $1
from unnest(
        $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::uuid[], $7::text[], $8::bigint[], $9::timestamptz[],
        $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::integer[], $14::timestamptz[], $15::timestamptz[]
    ) as changed (
        id, version_before, status, version, attempt_id, pg_payment_id, captured, expires_at, approving_since,
        requested_at, ask_at, asked, absent_since, undo_at
    )
where payments.id = changed.id and payments.version = changed.version_before
