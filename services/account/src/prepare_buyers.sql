insert into users (id, email, name, password_hash, role)
select
    buyer.id,
    'buyer-' || buyer.id || '@load.invalid',
    'Load buyer',
    $2,
    'USER'
from unnest($1) as buyer (id)
