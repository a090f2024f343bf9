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
insert into payments (id, order_id, user_id, method, amount, currency, idempotency_key, fingerprint, expires_at)
select id, order_id, user_id, method, amount, $2, idempotency_key, fingerprint, expires_at
from unnest(
        $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[], $8::text[], $9::bytea[], $10::timestamptz[]
    ) as new (id, order_id, user_id, method, amount, idempotency_key, fingerprint, expires_at)
where (select count(*) from payments where payments.order_id = new.order_id) < $1
on conflict (id) do nothing
returning id, created_at
