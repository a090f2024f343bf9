-- Stores payments that are prepared. Returns those that are new.
-- $1 payments that an order may have
-- $2 currency
-- One element for each:
-- $3 id
-- $4 order_id
-- $5 user_id
-- $6 method
-- $7 amount
-- $8 idempotency_key
-- $9 fingerprint
-- $10 expires_at
-- $11 coupon_issue_id, or null
insert into payments (
    id, order_id, user_id, method, amount, currency, idempotency_key, fingerprint, expires_at, coupon_issue_id
)
select id, order_id, user_id, method, amount, $2, idempotency_key, fingerprint, expires_at, coupon_issue_id
from unnest(
        $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[], $8::text[], $9::bytea[], $10::timestamptz[],
        $11::uuid[]
    ) as new (id, order_id, user_id, method, amount, idempotency_key, fingerprint, expires_at, coupon_issue_id)
where (select count(*) from payments where payments.order_id = new.order_id) < $1
on conflict (id) do nothing
returning id, created_at
