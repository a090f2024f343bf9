-- Notifications that somebody asks for, beside those that events lead to, and the keys of programs that may ask.

alter table notifications
    -- Who asked for it. Null: an event of this system led to it.
    add column requested_by uuid,
    -- Of the request; tells a retry from another request under the same key or for the same event.
    add column fingerprint bytea,
    -- The rows that are there have neither, so there is nothing to validate.
    add constraint notifications_requested check ((requested_by is null) = (fingerprint is null)) not valid;

-- Keys of programs.
create table api_keys (
    id uuid primary key,
    -- Whose key it is. All keys of one client share its Idempotency-Keys, so that replacing a key repeats nothing.
    client text not null,
    -- A client has two live keys at the most: the one in use, and the one that is to replace it.
    slot smallint not null check (slot in (1, 2)),
    scopes text[] not null check (cardinality(scopes) > 0),
    -- SHA-256 of the whole key. The key itself is stored nowhere.
    digest bytea not null check (octet_length(digest) = 32),
    -- Of the request that made it.
    fingerprint bytea not null,
    created_by uuid not null,
    created_at timestamptz not null default now(),
    revoked_by uuid,
    revoked_at timestamptz,
    check ((revoked_by is null) = (revoked_at is null))
);

create unique index api_keys_live on api_keys (client, slot) where revoked_at is null;
create index api_keys_by_time on api_keys (created_at desc, id desc);
