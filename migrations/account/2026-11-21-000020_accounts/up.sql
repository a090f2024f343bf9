create table users (
    id            uuid primary key,
    -- Lower-cased by the service: one person, one spelling, whatever the database's locale.
    email         text not null unique check (length(email) <= 254),
    name          text not null check (length(name) <= 100),
    -- A PHC string (argon2id), or '!' for an account that nobody can log in to by password.
    password_hash text not null,
    role          text not null check (role in ('USER', 'ADMIN')),
    created_at    timestamptz not null default now()
);

-- One log-in and all the refresh tokens that follow from it. Revoking is one update of one row, so no token that is
-- being rotated at that moment can slip through.
create table token_families (
    id         uuid primary key,
    user_id    uuid not null references users (id) on delete cascade,
    created_at timestamptz not null default now(),
    -- The last moment of any token of this log-in.
    expires_at timestamptz not null,
    revoked_at timestamptz
);
create index token_families_user_id on token_families (user_id);
create index token_families_expires_at on token_families (expires_at);

create table refresh_tokens (
    -- SHA-256 of the token; the token itself is stored nowhere.
    hash          bytea primary key check (octet_length(hash) = 32),
    family        uuid not null references token_families (id) on delete cascade,
    user_id       uuid not null references users (id) on delete cascade,
    issued_at     timestamptz not null default now(),
    expires_at    timestamptz not null,
    used_at       timestamptz,
    -- The signing key that the successor was derived with: within the grace the identical successor is derived again.
    successor_kid text,
    check ((used_at is null) = (successor_kid is null))
);
create index refresh_tokens_family on refresh_tokens (family);
create index refresh_tokens_user_id on refresh_tokens (user_id);
create index refresh_tokens_expires_at on refresh_tokens (expires_at);

-- Private keys are protected at rest by what protects the database: its disks, its backups and its roles.
create table signing_keys (
    kid        text primary key,
    public     bytea not null check (octet_length(public) = 32),
    private    bytea not null,
    created_at timestamptz not null default now(),
    -- Published from `created_at`, signs from here until the next key does.
    use_at     timestamptz not null,
    -- Not accepted any more from here; set when a next key is made.
    retire_at  timestamptz
);
