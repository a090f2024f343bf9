-- Inserts buyers for load tests.
-- $1: what stands in place of a password hash
-- $2: ids
insert into users (password_hash, id, email, name, role)
select
    $1,
    buyer.id,
    'buyer-' || buyer.id || '@load.invalid',
    'Load buyer',
    'USER'
from unnest($2::uuid[]) as buyer (id)
