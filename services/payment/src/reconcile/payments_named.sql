-- $1 payments
-- $2 seconds for which a payment counts as moving after a change
-- $3 method
select
    id,
    order_id,
    status,
    pg_payment_id,
    amount,
    captured,
    refunded,
    created_at,
    is_open or moved_at > statement_timestamp() - $2 * interval '1 second' as is_moving
from payments_compared
where id = any ($1) and method = $3
