-- $6: the resolver has something to find out, and begins at once. $7: reservation and pin are to be given back.
-- $8: the order is to be told. $9: seconds that there are at least to try again, as order and hold are told.
update payments
set status = $2,
    version = payments.version + 1,
    attempt_id = $3,
    pg_payment_id = $4,
    captured = $5,
    ask_at = case when $6 then clock_timestamp() + interval '1 second' end,
    absent_since = null,
    expires_at = case
        when $2 = 'PENDING' then greatest(expires_at, clock_timestamp() + make_interval(secs => $9))
        else expires_at
    end,
    owes_release = $7,
    owes_order = $8,
    settle_at = clock_timestamp() + interval '2 seconds',
    updated_at = clock_timestamp()
where id = $1
returning *
