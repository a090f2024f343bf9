-- $1 run
-- $2 runner
-- $3 seconds of the lease
-- $4 won captured, by the provider's book
-- $5 won cancelled, by the provider's book
-- $6 won that our payments have
-- $7 entries of the book
-- $8 payments
update reconciliation_runs
set lease_until = clock_timestamp() + $3 * interval '1 second',
    captured = $4,
    cancelled = $5,
    paid = $6,
    book_entries = $7,
    payments = $8
where id = $1 and runner = $2 and status = 'RUNNING'
