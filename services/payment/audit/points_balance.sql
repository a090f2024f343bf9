-- Points: nothing comes from nowhere, and every balance is the sum of what led to it.
with moved as (
    select transfer_id, sum(amount) as rest, max(amount) as amount, count(*) as entries
    from {payment}.point_entries
    group by transfer_id
),
owned as (
    select user_id, sum(amount) as amount
    from {payment}.point_entries
    where account = 'USER'
    group by user_id
),
kept as (
    select account, sum(amount) as amount
    from {payment}.point_entries
    where account in ('ESCROW', 'SALES')
    group by account
),
promised as (
    select case status when 'HELD' then 'ESCROW' else 'SALES' end as account, sum(amount - given_back) as amount
    from {payment}.point_holds
    where status in ('HELD', 'CONFIRMED')
    group by 1
)
select format('transfer %s of %s: %s entries of %s, which add up to %s', coalesce(transfer.id, moved.transfer_id),
              coalesce(transfer.amount, 0), coalesce(moved.entries, 0), coalesce(moved.amount, 0),
              coalesce(moved.rest, 0)) as offender
from {payment}.point_transfers as transfer
full join moved on moved.transfer_id = transfer.id
where transfer.id is null or moved.rest is distinct from 0 or moved.amount <> transfer.amount
union all
select format('user %s has %s points, the entries make %s', coalesce(point.account_id, owned.user_id),
              coalesce(point.balance, 0), coalesce(owned.amount, 0))
from {payment}.point
full join owned on owned.user_id = point.account_id
where coalesce(point.balance, 0) <> coalesce(owned.amount, 0) or point.balance < 0
union all
select format('%s has %s points, the holds make %s', account, coalesce(kept.amount, 0), coalesce(promised.amount, 0))
from kept
full join promised using (account)
where coalesce(kept.amount, 0) <> coalesce(promised.amount, 0)
union all
select format('payment %s: captured %s, refunded %s; of its points %s are held or sold for',
              coalesce(payment.id, hold.payment_id), coalesce(payment.captured, 0), coalesce(payment.refunded, 0),
              coalesce(hold.amount - hold.given_back, 0))
from (select * from {payment}.payments where method = 'POINTS') as payment
full join {payment}.point_holds as hold on hold.payment_id = payment.id
where coalesce(payment.captured - payment.refunded, 0) <> coalesce(hold.amount - hold.given_back, 0)
