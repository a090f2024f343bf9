-- Payments, every attempt to take the money, what was given back, and what providers called to say.

-- A payment's id is derived from the account and the Idempotency-Key of `POST /payments/prepare`.
create table payments (
    id uuid primary key,
    order_id uuid not null,
    user_id uuid not null,
    method text not null check (method in ('NAVERPAY', 'POINTS')),
    -- What is to be captured, all at once or not at all.
    amount bigint not null check (amount > 0),
    currency text not null,
    idempotency_key text not null,
    fingerprint bytea not null,
    status text not null default 'PENDING' check (
        status in ('PENDING', 'APPROVING', 'UNKNOWN', 'NEEDS_REVIEW', 'PAID', 'PARTIALLY_REFUNDED', 'REFUNDED', 'FAILED', 'CANCELLED', 'EXPIRED')
    ),
    -- Counts the changes of this payment, from 1.
    version bigint not null default 1,
    -- The attempt under way or the last one, and the provider's name for what the buyer authorised.
    attempt_id uuid,
    pg_payment_id text,
    captured bigint not null default 0 check (captured in (0, amount)),
    refunded bigint not null default 0 check (refunded between 0 and captured),
    -- Nobody approves after this: the order's units are reserved until then.
    expires_at timestamptz not null,

    -- When the attempt under way began, and when the money was last asked for: a provider begins within a minute or never.
    approving_since timestamptz,
    requested_at timestamptz,
    -- The resolver: when it asks next, how often it has asked, and since when the provider says that it knows nothing.
    ask_at timestamptz,
    asked integer not null default 0,
    absent_since timestamptz,
    -- The provider was told to undo the attempt: a capture of it is given back from now on, whoever hears of it.
    undo_at timestamptz,
    -- An attempt came to nothing: the order's reservation and the hold's pin are still to be given back.
    owes_release boolean not null default false,
    -- The money is there: the order is still to be told so, and to agree.
    owes_order boolean not null default false,
    -- The loop that settles what is owed leaves it alone until then.
    settle_at timestamptz not null default now(),

    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((status in ('PAID', 'PARTIALLY_REFUNDED', 'REFUNDED')) = (captured > 0)),
    check (status <> 'PAID' or refunded = 0),
    check (status <> 'REFUNDED' or refunded = captured)
);

-- Of an order's payments one at most is being approved. Early and cheap: what decides is the order's own reservation.
-- Captured ones are left out: money that came although nobody expected it any more must be recorded, and given back.
create unique index payments_one_per_order on payments (order_id)
where status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW');

create index payments_of_order on payments (order_id, created_at);
create index payments_to_resolve on payments (ask_at) where ask_at is not null;
create index payments_owing on payments (settle_at) where owes_release or owes_order;

-- Written before anybody is asked for anything: whatever happens then, somebody knows that it may have happened.
create table payment_attempt (
    -- Derived from the payment and its version, so that no two attempts share it.
    id uuid primary key,
    payment_id uuid not null references payments (id),
    pg_payment_id text not null,
    -- The provider's idempotency key, derived from the payment and the provider's payment id: attempts at the same
    -- authorisation share it.
    idempotency_key text not null,
    amount bigint not null check (amount > 0),
    status text not null default 'STARTED' check (status in ('STARTED', 'SUCCESS', 'DECLINED', 'ERROR', 'UNKNOWN')),
    pg_code text,
    pg_message text,
    started_at timestamptz not null default now(),
    ended_at timestamptz
);

create index payment_attempt_of_payment on payment_attempt (payment_id, started_at);

create table refunds (
    -- Derived from the payment and what caused it: the provider's idempotency key.
    id uuid primary key,
    payment_id uuid not null references payments (id),
    amount bigint not null check (amount > 0),
    reason text not null,
    fingerprint bytea not null,
    -- The capture that it is taken from.
    pg_payment_id text not null,
    -- The capture is not the payment's own, but came from an attempt that had been given up: the payment's sums do not
    -- contain it.
    stray boolean not null default false,
    -- PENDING until the provider has said yes or no; asked again under the same key until then.
    status text not null default 'PENDING' check (status in ('PENDING', 'SUCCEEDED', 'FAILED')),
    pg_code text,
    ask_at timestamptz default now(),
    asked integer not null default 0,
    created_at timestamptz not null default now(),
    ended_at timestamptz
);

create index refunds_of_payment on refunds (payment_id, created_at);
create index refunds_pending on refunds (ask_at) where status = 'PENDING';

-- What providers called to say. Never believed: it only makes the resolver ask sooner.
create table psp_webhooks (
    provider text not null,
    webhook_id text not null,
    payment_id uuid,
    payload text not null check (octet_length(payload) <= 65536),
    received_at timestamptz not null default now(),
    primary key (provider, webhook_id)
);

create index psp_webhooks_by_time on psp_webhooks (received_at);

alter table payments set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);
