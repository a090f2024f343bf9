-- After ($1, $2) and before $3. $4: as in payments_named.sql.
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
where captured > 0 and method = $5 and (created_at, id) > ($1, $2) and created_at < $3
order by created_at, id
limit $6
