-- The next payments with money, in the order in which they were prepared.
-- $1 after this time
-- $2 and this payment
-- $3 before this time
-- $4 seconds for which a payment counts as moving after a change
-- $5 method
-- $6 how many
select
    id,
    order_id,
    status,
    pg_payment_id,
    amount,
    captured,
    refunded,
    created_at,
    is_open or moved_at > statement_timestamp() - $4 * interval '1 second' as is_moving
from payments_compared
where captured > 0 and (created_at, id) > ($1, $2) and created_at < $3 and method = $5
order by created_at, id
limit $6
