-- Removes expired sessions, the oldest first. Tokens that are left go with their session.
-- $1: how many at most
delete from token_families
where token_families.id in (
    select token_families.id
    from token_families
    where token_families.expires_at < now()
    order by token_families.expires_at
    limit $1
    for update skip locked
)
