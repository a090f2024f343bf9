-- Comparisons of the provider's book with our payments, and what they found.

create table reconciliation_runs (
    id uuid primary key,
    provider text not null,
    -- What moved at the provider, and which payments of ours were prepared, from this time up to that one.
    from_time timestamptz not null,
    to_time timestamptz not null,
    -- The operator who asked for it; null: the clock did.
    requested_by uuid,
    status text not null default 'REQUESTED' check (status in ('REQUESTED', 'RUNNING', 'COMPLETED', 'FAILED')),
    -- Whoever runs it renews this; after it, another process begins again.
    lease_until timestamptz,
    -- Raised by everybody who begins it, so that one who was given up for dead notices.
    runner integer not null default 0,
    -- Sums in won: by the provider's book, and by our payments.
    captured bigint not null default 0,
    cancelled bigint not null default 0,
    paid bigint not null default 0,
    -- What the provider's book has above our payments, by the findings.
    difference bigint not null default 0,
    book_entries bigint not null default 0,
    payments bigint not null default 0,
    findings bigint not null default 0,
    error text,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    ended_at timestamptz,
    check (from_time < to_time)
);

-- One at a time.
create unique index reconciliation_runs_live on reconciliation_runs (provider) where status in ('REQUESTED', 'RUNNING');
create index reconciliation_runs_by_time on reconciliation_runs (created_at, id);

create table reconciliation_findings (
    id bigint generated always as identity primary key,
    run_id uuid not null references reconciliation_runs (id) on delete cascade,
    kind text not null check (
        kind in ('STRAY_CAPTURE', 'MISSING_CAPTURE', 'AMOUNT_MISMATCH', 'DOUBLE_CAPTURE', 'REFUND_MISMATCH', 'ORDER_MISMATCH')
    ),
    -- Our name for the payment as the provider has it, and the payment and order if it is one of ours.
    merchant_pay_key text not null,
    payment_id uuid,
    order_id uuid,
    pg_payment_id text,
    -- What the shop should have of this money by our payments, and what it has by the provider's book.
    expected bigint not null,
    found bigint not null,
    action text not null check (action in ('REPORTED', 'ASKED', 'CANCELLED', 'CANCEL_FAILED')),
    detail text not null,
    found_at timestamptz not null default now(),
    unique nulls not distinct (run_id, kind, merchant_pay_key, pg_payment_id)
);

create index reconciliation_findings_of_run on reconciliation_findings (run_id, id);

-- What a run reads of ours: payments with money, as they were prepared.
create index payments_captured on payments (created_at, id) where captured > 0;

-- Our payments as a run compares them. What is open, or has moved only just now, may rightly differ from the book.
create view payments_compared as
select
    payments.id,
    payments.order_id,
    payments.method,
    payments.status,
    payments.pg_payment_id,
    payments.amount,
    payments.captured,
    payments.refunded,
    payments.created_at,
    payments.owes_order or coalesce(given_back.is_open, false) as is_open,
    greatest(payments.updated_at, given_back.ended_at) as moved_at
from payments
left join lateral (
    select bool_or(refunds.status = 'PENDING') as is_open, max(refunds.ended_at) as ended_at
    from refunds
    where refunds.payment_id = payments.id
) as given_back on true;
