-- Locks a refresh token and its session. Both, in this order: a repeated request waits for the first, and a revocation
-- waits for the transaction that replaces the token.
-- $1: hash of the token
select
    refresh_tokens.user_id,
    refresh_tokens.family,
    refresh_tokens.expires_at,
    refresh_tokens.used_at,
    refresh_tokens.successor_kid,
    token_families.expires_at as session_expires_at,
    token_families.revoked_at is not null as session_revoked,
    users.role,
    clock_timestamp() as now
from refresh_tokens
join token_families on token_families.id = refresh_tokens.family
join users on users.id = refresh_tokens.user_id
where refresh_tokens.hash = $1
for update of refresh_tokens, token_families
