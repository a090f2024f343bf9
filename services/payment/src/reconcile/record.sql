-- $1 run
-- $2 kind
-- $3 our id of the payment, as the provider has it
-- $4 payment
-- $5 order
-- $6 the provider's payment id
-- $7 won by our payments
-- $8 won by the provider's book
-- $9 the detail
insert into reconciliation_findings
    (run_id, kind, merchant_pay_key, payment_id, order_id, pg_payment_id, expected, found, action, detail)
values ($1, $2, $3, $4, $5, $6, $7, $8, 'REPORTED', $9)
on conflict (run_id, kind, merchant_pay_key, pg_payment_id) do update
set found_at = excluded.found_at
returning id
