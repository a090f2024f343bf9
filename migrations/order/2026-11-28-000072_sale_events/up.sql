-- Sale events as the queue tells them: which products are sold when, and to whom.
create table sale_events (
    event_id              uuid primary key,
    version               bigint not null,
    opens_at              timestamptz not null,
    closes_at             timestamptz,
    closed                boolean not null default false,
    product_ids           uuid[] not null,
    queue_manage_required boolean not null,
    verify_offline        boolean not null,
    closed_on_outage      boolean not null,
    rate_per_minute       bigint not null,
    -- What passes are checked with while the queue does not answer.
    pass_key              text not null
);

-- Orders that were let through without a pass because the queue was dead.
create table queue_bypasses (
    order_id   uuid primary key,
    event_id   uuid not null,
    user_id    uuid not null,
    created_at timestamptz not null default now()
);
