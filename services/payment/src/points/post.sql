-- Moves the balances of users and writes the entries in one statement, so that neither is there without the other. One
-- posting at most moves a user's balance. The checks of the tables refuse a user who has no row, and a balance below 0.
-- $1 transfers
-- $2 kinds
-- $3 users
-- $4 payments; null for a charge
-- $5 accounts that the points leave
-- $6 accounts that they go to
-- $7 amounts
-- $8 fingerprints of requests to charge; null for others
with moment as (
    select clock_timestamp() as at
),
posting as (
    select *
    from unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::bigint[], $8::bytea[])
        as posting (id, kind, user_id, payment_id, source, target, amount, fingerprint)
),
transfer as (
    insert into point_transfers (id, kind, user_id, payment_id, amount, fingerprint, created_at)
    select id, kind, user_id, payment_id, amount, fingerprint, at from posting, moment
),
side as (
    select id as transfer_id, user_id, source as account, -amount as amount from posting
    union all
    select id, user_id, target, amount from posting
),
moved as (
    update point
    set balance = point.balance + side.amount, updated_at = moment.at
    from side, moment
    where side.account = 'USER' and point.account_id = side.user_id
    returning point.account_id, point.balance
)
insert into point_entries (transfer_id, account, user_id, amount, balance, created_at)
select side.transfer_id, side.account, moved.account_id, side.amount, moved.balance, moment.at
from moment, side
left join moved on side.account = 'USER' and moved.account_id = side.user_id
returning balance, created_at
