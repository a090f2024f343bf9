-- $1 payment
-- $2 its new status
-- $3 the attempt
-- $4 the provider's payment id
-- $5 what was captured
-- $6 whether the status is open: the resolver asks the provider again in a second
-- $7 seconds that the buyer has at least to try again after PENDING; order and hold are told the same
-- $8 whether nothing was captured: the order's reservation and the hold's pin are to be released
-- $9 whether it is paid: the order is to be told
update payments
set status = $2,
    version = payments.version + 1,
    attempt_id = $3,
    pg_payment_id = $4,
    captured = $5,
    ask_at = case when $6 then clock_timestamp() + interval '1 second' end,
    absent_since = null,
    expires_at = case
        when $2 = 'PENDING' then greatest(expires_at, clock_timestamp() + make_interval(secs => $7))
        else expires_at
    end,
    owes_release = $8,
    owes_order = $9,
    settle_at = clock_timestamp() + interval '2 seconds',
    updated_at = clock_timestamp()
where id = $1
returning *
