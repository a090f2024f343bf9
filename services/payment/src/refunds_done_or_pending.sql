-- $1 payment
select coalesce(sum(amount), 0)::bigint as total
from refunds
where payment_id = $1 and status <> 'FAILED' and not stray
