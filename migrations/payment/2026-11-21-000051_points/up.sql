-- Points: what each account has, and the double-entry ledger that says why. One point is one won.

-- One row per account, made when it first needs one. Whoever moves an account's points holds this row's lock, and
-- takes it before the lock of any row of point_holds.
--
-- The shop's own accounts (ISSUED, ESCROW, SALES) have no row: every transfer touches one of them, so each such row
-- would make all buyers wait for one another's commits. Their balances are the sums of their entries, which nobody
-- needs while selling.
create table point (
    account_id uuid primary key,
    -- At most 10^15, so that every balance is exact in JSON.
    balance bigint not null check (balance between 0 and 1000000000000000),
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);

-- Every movement of points, from one account to another.
create table point_transfers (
    -- Derived from what caused it, so that nothing is moved twice for one cause.
    id uuid primary key,
    kind text not null check (kind in ('CHARGE', 'HOLD', 'CONFIRM', 'RETURN')),
    -- Whose points they were, are or become.
    user_id uuid not null,
    -- No foreign key: checking one would lock the payment's row, and the order in which rows are locked ends here.
    payment_id uuid,
    amount bigint not null check (amount > 0),
    -- Of the request to charge.
    fingerprint bytea,
    created_at timestamptz not null,
    check ((kind = 'CHARGE') = (payment_id is null)),
    check ((kind = 'CHARGE') = (fingerprint is not null))
);

-- The two sides of each transfer. No foreign keys: both tables are written by one statement, and nothing is ever
-- deleted from either.
create table point_entries (
    -- Rises with time for each account, because it is given out under the lock of the account's row of `point`.
    id bigint generated always as identity primary key,
    transfer_id uuid not null,
    -- USER is the account of user_id; the others are the shop's. ISSUED is where points come from: it is below zero
    -- by all points there are. ESCROW has what is held for payments, SALES what was sold for.
    account text not null check (account in ('USER', 'ISSUED', 'ESCROW', 'SALES')),
    user_id uuid,
    amount bigint not null check (amount <> 0),
    -- The account's balance after this entry.
    balance bigint,
    -- The transfer's.
    created_at timestamptz not null,
    unique (transfer_id, account),
    check ((account = 'USER') = (user_id is not null)),
    check ((account = 'USER') = (balance is not null))
);
create index point_entries_of_user on point_entries (user_id, id desc) where user_id is not null;

-- The points of one payment: in escrow, then sold for or given back.
create table point_holds (
    payment_id uuid primary key,
    user_id uuid not null,
    amount bigint not null check (amount > 0),
    given_back bigint not null default 0 check (given_back between 0 and amount),
    status text not null default 'HELD' check (status in ('HELD', 'CONFIRMED', 'RELEASED')),
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    -- What is given back in full before it was sold for is released, and only that.
    check (status <> 'HELD' or given_back < amount),
    check (status <> 'RELEASED' or given_back = amount)
);

-- The ledger is only ever added to, and whatever is added adds up to nothing.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'rows of % are not changed or deleted', tg_table_name using errcode = 'restrict_violation';
end
$$;

create trigger point_transfers_stay before update or delete or truncate on point_transfers
for each statement execute function refuse_change();
create trigger point_entries_stay before update or delete or truncate on point_entries
for each statement execute function refuse_change();

-- Both sides are written by one statement, so a statement's entries can be looked at by themselves.
create function refuse_imbalance() returns trigger language plpgsql as $$
begin
    if exists (select from added group by transfer_id having sum(amount) <> 0) then
        raise exception 'the entries of a transfer add up to nothing' using errcode = 'check_violation';
    end if;
    return null;
end
$$;

create trigger point_entries_balance after insert on point_entries
referencing new table as added
for each statement execute function refuse_imbalance();

-- A changed row finds room on its own page, and no index has to learn of it.
alter table point set (fillfactor = 70);
alter table point_holds set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);
