-- $1 how many
-- $2 seconds for which the loop leaves them alone
with owing as (
    select id
    from payments
    where (owes_release or owes_order) and settle_at <= statement_timestamp()
    order by settle_at
    limit $1
    for update skip locked
)
update payments
set settle_at = clock_timestamp() + $2 * interval '1 second'
from owing
where payments.id = owing.id
returning payments.*
