-- Writes a batch of orders, each as it was decided under its lock. The version is compared all the same: if any code
-- ever changes an order without locking it first, this updates fewer rows and the flow fails, and nothing is lost.
--
--   $1 updated_at
-- One element for each order:
--   $2 id
--   $3 the version under the lock
--   $4 the new version
--   $5 status
--   $6 approving_payment_id, or null
--   $7 approving_attempt_id, or null
--   $8 ended_attempt_ids, as a text
--   $9 paid_payment_id, or null
--   $10 returned_payment_ids, as a text
--   $11 hold_expires_at
--   $12 cancel_reason, or null
update orders
set updated_at = $1,
    version = changed.version,
    status = changed.status,
    approving_payment_id = changed.approving_payment_id,
    approving_attempt_id = changed.approving_attempt_id,
    ended_attempt_ids = changed.ended_attempt_ids::uuid[],
    paid_payment_id = changed.paid_payment_id,
    returned_payment_ids = changed.returned_payment_ids::uuid[],
    hold_expires_at = changed.hold_expires_at,
    cancel_reason = changed.cancel_reason
from unnest(
        $2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::uuid[], $7::uuid[], $8::text[], $9::uuid[], $10::text[],
        $11::timestamptz[], $12::text[]
    ) as changed (
        id, version_before, version, status, approving_payment_id, approving_attempt_id, ended_attempt_ids,
        paid_payment_id, returned_payment_ids, hold_expires_at, cancel_reason
    )
where orders.id = changed.id and orders.version = changed.version_before
