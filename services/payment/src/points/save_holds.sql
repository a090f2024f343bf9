-- $1 payments
-- $2 users
-- $3 statuses
-- $4 amounts
-- $5 what was refunded of them
insert into point_holds (payment_id, user_id, status, amount, given_back)
select *
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
on conflict (payment_id) do update
set status = excluded.status,
    given_back = excluded.given_back,
    updated_at = clock_timestamp()
