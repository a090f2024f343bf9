select
    t.user_id,
    t.family,
    t.expires_at,
    t.used_at,
    t.successor_kid,
    f.expires_at as session_expires_at,
    f.revoked_at is not null as session_revoked,
    u.role,
    clock_timestamp() as now
from refresh_tokens t
join token_families f on f.id = t.family
join users u on u.id = t.user_id
where t.hash = $1
-- Both, in this order: a repeat waits for the first, a revocation waits for whoever is rotating.
for update of t, f
