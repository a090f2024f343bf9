-- Notifications to programs: signed requests to addresses that administrators have entered.

create table webhook_endpoints (
    name text primary key,
    url text not null,
    -- whsec_ and base64, as receivers need it. It has to be readable here, because we sign with it.
    secret text not null,
    -- Receivers that have not got the new secret yet are signed for with the old one too, until then.
    old_secret text,
    old_secret_until timestamptz,
    created_by uuid not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((old_secret is null) = (old_secret_until is null))
);

-- Rows that are there keep to the narrower rule, so there is nothing to validate.
alter table deliveries
    drop constraint deliveries_channel_check,
    add constraint deliveries_channel_check check (channel in ('EMAIL', 'SLACK', 'WEBHOOK')) not valid;
