-- Each row is written as it was decided under its lock. The version that the decision was made from is compared all the
-- same: should anybody ever change an order without locking it first, this fails instead of overwriting that.
update orders
set status = changed.status,
    version = changed.version,
    approving_payment_id = changed.approving_payment_id,
    approving_attempt_id = changed.approving_attempt_id,
    ended_attempt_ids = changed.ended_attempt_ids::uuid[],
    paid_payment_id = changed.paid_payment_id,
    returned_payment_ids = changed.returned_payment_ids::uuid[],
    hold_expires_at = changed.hold_expires_at,
    cancel_reason = changed.cancel_reason,
    updated_at = $11
from unnest(
        $1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::uuid[], $6::uuid[], $7::text[], $8::uuid[],
        $9::timestamptz[], $10::text[], $12::text[]
    ) as changed (
        id, version_before, version, status, approving_payment_id, approving_attempt_id, ended_attempt_ids,
        paid_payment_id, hold_expires_at, cancel_reason, returned_payment_ids
    )
where orders.id = changed.id and orders.version = changed.version_before
