-- Orders that have ended move to tables of their own after a time, so that the ones that are worked on stay small. An order
-- is in one of the two places, with its items and its address; the views below have both.

create table orders_archive (
    like orders including defaults including constraints,
    archived_at timestamptz not null default now(),
    primary key (id),
    constraint archived_has_ended check (status in ('PAID', 'REFUNDED', 'CANCELLED', 'EXPIRED'))
);

create index orders_archive_of_user on orders_archive (user_id, created_at desc, id desc);

create table order_items_archive (
    like order_items including defaults including constraints,
    primary key (order_id, line)
);

create table shipping_info_archive (
    like shipping_info including defaults including constraints,
    primary key (order_id)
);

-- What is to be archived, the oldest first. An order gets into it when it ends, so placing one costs nothing more.
create index orders_to_archive on orders (updated_at) where status in ('PAID', 'REFUNDED', 'CANCELLED', 'EXPIRED');

-- Every order, wherever it is, and when it was archived. A statement that reads these sees each order once: the two
-- places are read at one moment.
create view all_orders as
select id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
       first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
       ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id, null::timestamptz as archived_at
from orders
union all
select id, user_id, status, version, amount, currency, fingerprint, idempotency_key, hold_expires_at,
       first_hold_expires_at, created_at, updated_at, cancel_reason, approving_payment_id, approving_attempt_id,
       ended_attempt_ids, paid_payment_id, returned_payment_ids, coupon_issue_id, archived_at
from orders_archive;

create view all_order_items as
select order_id, line, product_id, sku, name, quantity, unit_price, discount, seats from order_items
union all
select order_id, line, product_id, sku, name, quantity, unit_price, discount, seats from order_items_archive;

create view all_shipping_info as
select order_id, recipient, phone, postal_code, address, memo from shipping_info
union all
select order_id, recipient, phone, postal_code, address, memo from shipping_info_archive;

-- No order is placed a second time when its first self is archived at that very moment: the insert has waited for the
-- archiving transaction then, and this looks again after it. The transaction is run again, and finds the archived order.
create function refuse_archived_orders() returns trigger
language plpgsql
as $$
begin
    if exists (select from placed join orders_archive using (id)) then
        raise exception 'an order with this id has just been archived' using errcode = 'serialization_failure';
    end if;
    return null;
end
$$;

create trigger orders_in_one_place after insert on orders
    referencing new table as placed
    for each statement execute function refuse_archived_orders();

-- Runs of the archive, newest last: what each has moved. The counts are written with what they count.
create table archive_runs (
    id uuid primary key,
    -- The administrator who asked for it; null: the clock did.
    requested_by uuid,
    status text not null default 'REQUESTED' check (status in ('REQUESTED', 'RUNNING', 'COMPLETED', 'FAILED')),
    -- Orders that had not changed since this time were moved.
    unchanged_since timestamptz not null,
    orders bigint not null default 0,
    items bigint not null default 0,
    chunks bigint not null default 0,
    error text,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    ended_at timestamptz
);

-- One at a time.
create unique index archive_runs_live on archive_runs ((true)) where status in ('REQUESTED', 'RUNNING');
create index archive_runs_by_time on archive_runs (created_at, id);

-- The last time of the day's archiving that a run was made for: one row. What came before the installation is no debt.
create table archive_schedule (
    only_row boolean primary key default true check (only_row),
    done_until timestamptz not null default now()
);

insert into archive_schedule default values;
