-- $1 attempt
-- $2 its new status
-- $3 the provider's code
-- $4 the provider's message
update payment_attempt
set status = $2,
    pg_code = $3,
    pg_message = $4,
    ended_at = clock_timestamp()
where id = $1 and (status in ('STARTED', 'UNKNOWN') or ($2 = 'SUCCESS' and status <> 'SUCCESS'))
