-- $1 orders
-- $2 the status in which their payments end
with ended as (
    select id
    from payments
    where order_id = any ($1) and status = 'PENDING'
    order by id
    for update
)
update payments
set status = $2,
    version = payments.version + 1,
    updated_at = clock_timestamp()
from ended
where payments.id = ended.id
