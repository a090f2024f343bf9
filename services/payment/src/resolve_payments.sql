-- Claims payments that the provider is to be asked about: an open one until its outcome is known, an ended one once.
-- $1 how many
-- $2 seconds for which the loop leaves them alone
with due as (
    select id
    from payments
    where ask_at <= statement_timestamp()
    order by ask_at
    limit $1
    for update skip locked
)
update payments
set asked = payments.asked + 1,
    ask_at = case
        when payments.status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW') then clock_timestamp() + $2 * interval '1 second'
    end
from due
where payments.id = due.id
returning payments.id
