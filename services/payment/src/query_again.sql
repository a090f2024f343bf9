-- $1 payment
-- $2 attempt
-- $3 since when the provider knows no capture
-- $4 seconds until the provider is asked again
update payments
set absent_since = $3,
    ask_at = least(ask_at, clock_timestamp() + $4 * interval '1 second')
where id = $1 and attempt_id = $2 and ask_at is not null
