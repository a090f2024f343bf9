-- What is for sale.
create table products (
    id uuid primary key,
    sku text not null unique,
    name text not null,
    -- Whole won.
    price_amount bigint not null check (price_amount > 0),
    currency text not null,
    -- Units that one buyer may hold and own together; null: as many as there are.
    max_per_user integer check (max_per_user > 0),
    version bigint not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);
create index products_newest on products (created_at desc, id desc);

-- Raised with every change of a product, so that a cached page of products knows whether it is still true.
create table catalogue (
    only_row boolean primary key default true check (only_row),
    version bigint not null
);
insert into catalogue (version) values (1);

-- One row per product is what all buyers fight over. The checks are the last word against overselling.
-- Half of each page stays free, so that an update finds room beside its row and touches no index.
create table stocks (
    product_id uuid primary key references products (id),
    on_hand bigint not null check (on_hand >= 0),
    held bigint not null default 0 check (held >= 0),
    -- Raised with every change of the row; the version of the stock's events.
    version bigint not null default 1,
    -- Raised when an adjustment or a return takes sellable units from 0 to more.
    restock_round bigint not null default 0,
    constraint held_is_covered check (held <= on_hand)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- One header per hold carries the state of all its lines. A hold that was released before it was made is a
-- tombstone: it has neither user nor lines.
create table holds (
    hold_id uuid primary key,
    user_id uuid,
    state text not null check (state in ('HELD', 'PINNED', 'CONFIRMED', 'RELEASED', 'EXPIRED', 'RETURNED')),
    expires_at timestamptz not null,
    -- The attempt to pay that a pinned hold waits for.
    pinned_by uuid,
    -- The payment was approved before the pin, and maybe after the time was up: the end of the order, which is older
    -- than that, does not give the units back.
    pinned_late boolean not null default false,
    -- The attempts that ended without having paid, so that a pin which its end has overtaken is refused.
    unpinned_by uuid[] not null default '{}',
    -- Of the order that confirmed it, or whose refund came first.
    order_version bigint,
    reason text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    check (user_id is not null or state = 'RELEASED'),
    check ((state = 'PINNED') = (pinned_by is not null)),
    check (state = 'PINNED' or not pinned_late)
);
-- For the sweeper, for taking expired units over, and for rebuilding the gate. It holds only what is alive.
create index holds_live on holds (expires_at) where state in ('HELD', 'PINNED');
-- For the limit per user.
create index holds_of_user on holds (user_id) where state in ('HELD', 'PINNED', 'CONFIRMED');

-- Immutable. Without foreign keys: both tables are written by one statement under the stock's lock, nothing deletes
-- from either, and checking a key for every line would cost more than inserting it.
create table hold_lines (
    hold_id uuid not null,
    product_id uuid not null,
    quantity integer not null check (quantity > 0),
    unit_price bigint not null,
    currency text not null,
    sku text not null,
    name text not null,
    primary key (hold_id, product_id)
);

-- Every movement of on_hand. Holding, releasing and expiring move only `held`, and those movements are already
-- recorded once by the immutable hold_lines and the state of their header; a second row for each would double what
-- the hot path writes. `stock_movements` shows both kinds in one list.
create table product_stock_audit (
    id bigint generated always as identity primary key,
    product_id uuid not null,
    hold_id uuid,
    -- Derived from the administrator and the Idempotency-Key.
    adjustment_id uuid unique,
    kind text not null check (kind in ('INITIAL', 'ADJUST', 'CONFIRM', 'RETURN')),
    delta bigint not null,
    on_hand_after bigint not null,
    held_after bigint not null,
    stock_version bigint not null,
    reason text,
    reference text,
    actor uuid,
    -- Of the adjustment's request.
    fingerprint bytea,
    created_at timestamptz not null default clock_timestamp(),
    unique (hold_id, product_id, kind)
);
create index product_stock_audit_of_product on product_stock_audit (product_id, id desc);

-- A hold that was taken again for a late payment shows as one that never ended.
create view stock_movements as
select product_id, kind, delta as on_hand_delta,
       case kind when 'CONFIRM' then delta else 0 end as held_delta, hold_id, created_at
  from product_stock_audit
 union all
select hold_lines.product_id, 'HOLD', 0, hold_lines.quantity, hold_lines.hold_id, holds.created_at
  from hold_lines
  join holds on holds.hold_id = hold_lines.hold_id
 union all
select hold_lines.product_id, case holds.state when 'RELEASED' then 'RELEASE' else 'EXPIRE' end, 0,
       -hold_lines.quantity, hold_lines.hold_id, holds.updated_at
  from hold_lines
  join holds on holds.hold_id = hold_lines.hold_id
 where holds.state in ('RELEASED', 'EXPIRED');
