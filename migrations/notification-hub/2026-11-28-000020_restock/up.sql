-- Who wants to be told when a product is back. A row is added by subscribing and removed by unsubscribing, and outlives
-- the rounds. The id is the order in which people are told.
create table product_user_notification (
    -- Ids are given in the order of the inserts, and become visible in the order of the commits: a lower one may appear
    -- after a higher one.
    id bigint generated always as identity,
    product_id uuid not null,
    user_id uuid not null,
    -- The transaction that inserted the row. Every transaction before the oldest one that is still open has ended, so of
    -- their rows none can appear any more.
    tx_id bigint not null default (pg_current_xact_id()::text::bigint),
    created_at timestamptz not null default now(),
    -- No index has the ids of all products: the planner would look along it for those of one.
    primary key (product_id, id),
    -- In this order it also serves a user's own list.
    unique (user_id, product_id)
);

create index product_user_notification_by_tx on product_user_notification (product_id, tx_id);

-- The campaign of one restock round of one product: how far its alerts are.
create table product_notification_history (
    product_id uuid not null,
    round bigint not null check (round > 0),
    -- Derived from product and round.
    id uuid not null unique,
    status text not null
        check (status in ('IN_PROGRESS', 'CANCELED_BY_SOLD_OUT', 'CANCELED_BY_ERROR', 'COMPLETED')),
    -- Of the stock when the round began. Only news of a newer version can end it.
    stock_version bigint not null,
    -- The last subscription that a batch was written for; batches follow the ids. 0: none yet.
    last_subscription_id bigint not null default 0,
    -- The greatest subscription of the product when the round began; later ones come behind it.
    ceiling bigint not null,
    -- The oldest open transaction when the round began. Only rows of this one and of later ones can have been overtaken.
    start_tx bigint not null,
    -- The same when the last subscriber had been found: every row of an earlier transaction has its alert.
    end_tx bigint,
    -- Subscribers that batches were written for, and those whose alert went out at its first attempt.
    recipient_count bigint not null default 0,
    sent_count bigint not null default 0,
    -- Counts the runners. What a runner writes counts only under its own epoch.
    epoch bigint not null default 0,
    -- Until when the round is its runner's; null or past: anybody may take it.
    lease_until timestamptz,
    error text,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    primary key (product_id, round),
    check ((status = 'IN_PROGRESS') = (ended_at is null)),
    check (status = 'IN_PROGRESS' or lease_until is null),
    check (status <> 'CANCELED_BY_ERROR' or error is not null),
    check (status <> 'COMPLETED' or end_tx is not null)
);

-- A product is restocked once at a time.
create unique index product_notification_history_running on product_notification_history (product_id)
    where status = 'IN_PROGRESS';

-- Who was told in which round. No foreign key to the subscription: unsubscribing removes that.
create table product_user_notification_history (
    product_id uuid not null,
    round bigint not null,
    subscription_id bigint not null,
    user_id uuid not null,
    notification_id uuid not null unique references notifications (id),
    -- When the round's runner handed the alert to its channel; whether it went out says the delivery. Null: not yet, or
    -- never because the product sold out.
    attempted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (product_id, round, subscription_id),
    -- Nobody is told twice, though they unsubscribe and subscribe again in the middle of a round.
    unique (product_id, round, user_id),
    foreign key (product_id, round) references product_notification_history (product_id, round)
);

-- What a runner that died has left behind.
create index product_user_notification_history_unsent
    on product_user_notification_history (product_id, round, subscription_id) where attempted_at is null;
