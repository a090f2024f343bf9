-- What can be issued. One row per coupon is what all who want it fight over; the check is the last word against issuing
-- too many. Half of each page stays free, so that a batch of issues finds room beside the row and touches no index.
create table coupons (
    -- Derived from the administrator and the Idempotency-Key.
    id uuid primary key,
    name text not null,
    discount_kind text not null check (discount_kind in ('FIXED', 'PERCENT')),
    -- Minor units of the currency, or percent.
    discount_value bigint not null,
    currency text not null,
    -- What the products that the coupon is for must cost together.
    minimum_amount bigint not null check (minimum_amount >= 0),
    maximum_discount bigint check (maximum_discount > 0),
    -- Empty: for all products.
    product_ids uuid[] not null default '{}',
    total bigint not null check (total > 0),
    issued bigint not null default 0 check (issued >= 0),
    starts_at timestamptz not null,
    -- Until then it is issued, and until then it can be used.
    expires_at timestamptz not null check (expires_at > starts_at),
    -- Whether a refund of the order gives the coupon back.
    restored_on_refund boolean not null,
    -- No more are issued. Those that are issued can be used.
    closed boolean not null default false,
    -- Raised before the gate in Redis is loaded: what an older gate has let through is not stored any more.
    epoch bigint not null default 0,
    -- Raised by administrators; an issue does not raise it.
    version bigint not null default 1,
    fingerprint bytea not null,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint issued_is_covered check (issued <= total),
    -- An order always has something left to pay.
    check (case discount_kind when 'FIXED' then discount_value > 0 and minimum_amount > discount_value
                              else discount_value between 1 and 99 end)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
create index coupons_newest on coupons (created_at desc, id desc);

-- One coupon in the hands of one account. Without a foreign key: it is written under the coupon's lock, nothing deletes
-- coupons, and checking a key for every issue would cost more than inserting it.
create table coupon_issue (
    -- Derived from coupon and user.
    id uuid primary key,
    coupon_id uuid not null,
    user_id uuid not null,
    -- The take of the gate that it was stored for, so that exactly one request is told that it was issued.
    take_id text not null,
    -- Of the issue's own events: raised when it is redeemed, and when it is restored.
    version bigint not null default 0,
    issued_at timestamptz not null,
    unique (coupon_id, user_id)
);
create index coupon_issue_of_user on coupon_issue (user_id, issued_at desc, id desc);

-- A take that could not be stored and was undone: told once as COUPON_ISSUE_FAILED. The issue may succeed later.
create table coupon_issue_failures (
    issue_id uuid primary key,
    coupon_id uuid not null,
    user_id uuid not null,
    reason text not null,
    failed_at timestamptz not null
);

-- An issued coupon in an order. One that was released before it was made is a tombstone, and has no issue.
-- Whoever changes a redemption has locked the row of its issue.
create table coupon_redemptions (
    order_id uuid primary key,
    coupon_issue_id uuid references coupon_issue (id),
    state text not null check (state in ('RESERVED', 'PINNED', 'CONFIRMED', 'RELEASED', 'EXPIRED', 'RESTORED')),
    expires_at timestamptz not null,
    -- The attempt to pay that a pinned redemption waits for.
    pinned_by uuid,
    -- The payment was approved before the pin, and maybe after the time was up: the end of the order, which is older
    -- than that, does not give the coupon back.
    pinned_late boolean not null default false,
    -- The attempts that ended without having paid, so that a pin which its end has overtaken is refused.
    unpinned_by uuid[] not null default '{}',
    -- Of the order that confirmed it, or whose refund came first.
    order_version bigint,
    discount bigint not null default 0 check (discount >= 0),
    currency text not null default '',
    -- [{"product": …, "discount": …}]: what each line costs less. Read and written as a whole.
    lines jsonb not null default '[]',
    reason text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    check (coupon_issue_id is not null or state = 'RELEASED'),
    check ((state = 'PINNED') = (pinned_by is not null)),
    check (state = 'PINNED' or not pinned_late)
);
-- An issued coupon is in one order at most. This is the last word.
create unique index coupon_redemptions_live on coupon_redemptions (coupon_issue_id)
    where state in ('RESERVED', 'PINNED', 'CONFIRMED');
-- For the sweeper.
create index coupon_redemptions_reserved on coupon_redemptions (expires_at) where state = 'RESERVED';
