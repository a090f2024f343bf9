-- An order's id is derived from the account and the Idempotency-Key, so the primary key is what makes a retry harmless.
create table orders (
    id uuid primary key,
    user_id uuid not null,
    status text not null default 'CREATED' check (
        status in ('CREATED', 'PENDING_PAYMENT', 'PAID', 'REFUND_PENDING', 'REFUNDED', 'CANCELLED', 'EXPIRED')
    ),
    -- Counts the changes of this row; events carry it, and consumers compare it.
    version bigint not null default 1,
    amount bigint not null check (amount > 0),
    currency text not null,
    -- What the key's first request asked for; another request under the same key is told apart by it.
    fingerprint bytea not null,
    idempotency_key text not null,
    -- Moves when the approval of a payment comes to nothing.
    hold_expires_at timestamptz not null,
    -- As the first answer told it, because a replay tells it again.
    first_hold_expires_at timestamptz not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    cancel_reason text,
    -- The payment whose approval is under way, and which attempt of it: while they are set, the order neither ends nor is
    -- paid by another.
    approving_payment_id uuid check (approving_payment_id is null or status in ('CREATED', 'PENDING_PAYMENT')),
    approving_attempt_id uuid check ((approving_attempt_id is null) = (approving_payment_id is null)),
    -- The attempts that were ended. A request to begin one that arrives only now would reserve the order for nobody.
    ended_attempt_ids uuid[] not null default '{}' check (approving_attempt_id <> all (ended_attempt_ids)),
    paid_payment_id uuid check ((paid_payment_id is not null) = (status in ('PAID', 'REFUND_PENDING', 'REFUNDED'))),
    -- Payments whose money went back before they had paid the order. They never will: whoever still asks for that, asks late.
    returned_payment_ids uuid[] not null default '{}' check (paid_payment_id <> all (returned_payment_ids))
);

create index orders_of_user on orders (user_id, created_at desc, id desc);
create index orders_to_expire on orders (hold_expires_at)
    where status in ('CREATED', 'PENDING_PAYMENT') and approving_payment_id is null;
-- No money pays twice.
create unique index orders_paid on orders (paid_payment_id) where paid_payment_id is not null;

-- Items and shipping have no foreign key: they are written by the statement that writes their order and by nothing else,
-- and a check of each row would cost the hot path a look-up and a row lock a line.
create table order_items (
    order_id uuid not null,
    line smallint not null,
    product_id uuid not null,
    sku text not null,
    name text not null,
    quantity int not null check (quantity > 0),
    unit_price bigint not null check (unit_price > 0),
    primary key (order_id, line)
);

create table shipping_info (
    order_id uuid primary key,
    recipient text not null,
    phone text not null,
    postal_code text not null,
    address text not null,
    memo text
);
