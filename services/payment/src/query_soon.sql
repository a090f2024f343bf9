-- $1 payment
-- $2 seconds that an approval under way gets to learn the outcome by itself
update payments
set ask_at = case
    when status = 'APPROVING' then least(ask_at, statement_timestamp() + $2 * interval '1 second')
    else statement_timestamp()
end
where id = $1
    and attempt_id is not null
    and status in ('PENDING', 'APPROVING', 'UNKNOWN', 'NEEDS_REVIEW', 'FAILED', 'CANCELLED', 'EXPIRED')
