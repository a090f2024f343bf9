-- Facts that somebody should hear about, once for each event. A notification has no state of its own: its overall
-- status is computed from its deliveries whenever it is read.
create table notifications (
    id uuid primary key,
    -- The fact. A second notification for the same event cannot exist, however often the event is delivered.
    event_id uuid not null unique,
    type text not null,
    -- Whom it is for. Null: for operators alone.
    user_id uuid,
    data jsonb not null,
    created_at timestamptz not null default now()
);

create index notifications_by_user on notifications (user_id, created_at desc, id desc);
create index notifications_by_time on notifications (created_at desc, id desc);

-- One job of sending: one notification over one channel.
create table deliveries (
    id uuid primary key,
    notification_id uuid not null references notifications (id),
    channel text not null check (channel in ('EMAIL', 'SLACK')),
    status text not null default 'PENDING' check (status in ('PENDING', 'PROCESSING', 'SUCCESS', 'FAILED')),
    -- Tries so far, the one under way included.
    attempt integer not null default 0 check (attempt >= 0),
    next_attempt_at timestamptz not null default now(),
    -- The lease, not the state, is the lock: PROCESSING past this instant belongs to nobody.
    lease_until timestamptz,
    -- Counts the claims. A result is recorded only under the token of its own claim.
    lock_token bigint not null default 0,
    -- Set when nothing will be tried any more by itself; an operator may retry.
    dead_lettered_at timestamptz,
    last_error text,
    -- The lower, the sooner.
    priority smallint not null,
    -- Where to send to; null means what is known at the time of sending: the address that account has, or the webhook
    -- of the settings.
    target text,
    subject text not null,
    body text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (notification_id, channel),
    check ((status = 'PROCESSING') = (lease_until is not null)),
    check (dead_lettered_at is null or status = 'FAILED')
);

-- Each channel has a queue of its own.
create index deliveries_due on deliveries (channel, priority, next_attempt_at, id) where status = 'PENDING';
create index deliveries_leased on deliveries (lease_until) where status = 'PROCESSING';
create index deliveries_dead on deliveries (dead_lettered_at) where dead_lettered_at is not null;

-- Every delivery is updated twice and leaves both partial indexes: without eager vacuuming the claim walks over its past.
alter table deliveries set (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);

-- When the next message may go over a channel whose provider bounds the rate for all replicas together. The row is also
-- the turn: whoever has it locked is the one that claims.
create table channel_paces (
    channel text primary key,
    next_send_at timestamptz not null
);

insert into channel_paces (channel, next_send_at) values ('SLACK', now());
