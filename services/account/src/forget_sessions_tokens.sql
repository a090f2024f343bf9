-- Removes expired refresh tokens, the oldest first.
-- $1: how many at most
delete from refresh_tokens
where refresh_tokens.hash in (
    select refresh_tokens.hash
    from refresh_tokens
    where refresh_tokens.expires_at < now()
    order by refresh_tokens.expires_at
    limit $1
    for update skip locked
)
