-- Makes a key in the first free place of its client. Changes nothing where the key is there, or the client has no free place.
-- $1: id
-- $2: client
-- $3: scopes
-- $4: digest of the key
-- $5: fingerprint of the request
-- $6: the administrator
insert into api_keys (id, client, slot, scopes, digest, fingerprint, created_by)
select $1, $2, free.slot, $3, $4, $5, $6
from (
    select place.slot
    from unnest(array[1, 2]::smallint[]) as place (slot)
    where not exists (
        select
        from api_keys
        where api_keys.client = $2 and api_keys.slot = place.slot and api_keys.revoked_at is null
    )
    order by place.slot
    limit 1
) as free
on conflict do nothing
