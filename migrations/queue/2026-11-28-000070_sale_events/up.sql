create table sale_events (
    id                    uuid primary key,
    name                  text not null check (length(name) <= 200),
    -- What was announced. Whether a sale is open follows from its times: see the rules of the service.
    status                text not null default 'PENDING' check (status in ('PENDING', 'OPEN', 'CLOSED')),
    -- By the last look at the stock. TENTATIVE: all that is left is held, and may come back. FINAL: everything is sold.
    sold_out              text check (sold_out in ('TENTATIVE', 'FINAL')),
    opens_at              timestamptz not null,
    closes_at             timestamptz,
    -- From here until it opens people may come early; a draw puts them in order.
    prequeue_at           timestamptz,
    opened_at             timestamptz,
    closed_at             timestamptz,
    product_ids           uuid[] not null check (cardinality(product_ids) between 1 and 100),
    queue_manage_required boolean not null,
    -- Passes in use and offers at the same time.
    max_active            integer not null check (max_active > 0),
    rate_per_minute       integer not null check (rate_per_minute > 0),
    -- The clock of each pass.
    session_seconds       integer not null check (session_seconds > 0),
    -- How long a slot is offered.
    claim_seconds         integer not null check (claim_seconds > 0),
    waiting_max           bigint not null check (waiting_max > 0),
    verify_offline        boolean not null,
    closed_on_outage      boolean not null,
    mode                  text not null default 'RUNNING' check (mode in ('RUNNING', 'PAUSED', 'DRAINING')),
    -- Passes of one event are signed with a key of its own: its life is the sale, and nothing has to be rotated. Private
    -- keys are protected at rest by what protects the database.
    pass_public_key       bytea not null check (octet_length(pass_public_key) = 32),
    pass_private_key      bytea not null,
    -- Made with the event and told after the draw; its hash is told from the beginning.
    draw_seed             bytea not null check (octet_length(draw_seed) = 32),
    fingerprint           bytea not null,
    version               bigint not null default 1,
    created_by            uuid not null,
    created_at            timestamptz not null default now(),
    updated_at            timestamptz not null default now(),
    check ((status = 'PENDING') <= (opened_at is null)),
    check ((status = 'OPEN') <= (opened_at is not null)),
    check ((status = 'CLOSED') = (closed_at is not null))
);
-- What is due next, and what the sweep looks for.
create index sale_events_pending on sale_events (opens_at) where status = 'PENDING';
create index sale_events_open on sale_events (closes_at) where status = 'OPEN';
-- The list of events.
create index sale_events_created on sale_events (created_at, id);
