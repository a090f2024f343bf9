-- Has the provider asked now about an attempt whose outcome is not known to be a capture.
-- $1 payment
update payments
set ask_at = statement_timestamp()
where id = $1
    and attempt_id is not null
    and status in ('PENDING', 'APPROVING', 'UNKNOWN', 'NEEDS_REVIEW', 'FAILED', 'CANCELLED', 'EXPIRED')
