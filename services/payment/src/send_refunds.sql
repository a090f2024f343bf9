-- $1 how many
-- $2 seconds for which the loop leaves them alone
with due as (
    select id
    from refunds
    where status = 'PENDING' and ask_at <= statement_timestamp()
    order by ask_at
    limit $1
    for update skip locked
)
update refunds
set asked = refunds.asked + 1,
    ask_at = clock_timestamp() + $2 * interval '1 second'
from due
where refunds.id = due.id
returning refunds.*
