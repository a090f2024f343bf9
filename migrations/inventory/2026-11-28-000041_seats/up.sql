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

-- Requests for seats that were let through without a pass because the queue was dead.
create table queue_bypasses (
    reservation_id uuid not null,
    event_id       uuid not null,
    user_id        uuid not null,
    created_at     timestamptz not null default clock_timestamp(),
    primary key (reservation_id, event_id)
);

create table concert (
    concert_id uuid primary key,
    title text not null,
    starts_at timestamptz not null,
    -- Seats that one account may hold and own together; null: as many as there are.
    max_per_user integer check (max_per_user > 0),
    created_at timestamptz not null default clock_timestamp()
);
create index concert_newest on concert (created_at desc, concert_id desc);

-- A product with a concert is a price category of its seats: its units are sold as seats only.
alter table products add column concert_id uuid references concert (concert_id);
create index products_of_concert on products (concert_id) where concert_id is not null;

create table seat (
    seat_id uuid primary key,
    concert_id uuid not null references concert (concert_id),
    product_id uuid not null references products (id),
    label text not null,
    -- In the order of the request that made it.
    place integer not null,
    unique (concert_id, label)
);
create index seat_of_concert on seat (concert_id, place);

-- Who has a seat, or had it last. There is one row for each seat at most, so two buyers cannot both have it. The row stays
-- when its hold ends, and the next reservation takes it over: nothing deletes it, so nothing deletes one that is being paid.
create table reservation (
    seat_id uuid primary key references seat (seat_id),
    hold_id uuid not null,
    user_id uuid not null,
    reserved_at timestamptz not null
);

-- The seats of a line, with their labels when it was made: [{"seatId": …, "label": …}]. Null: plain units.
alter table hold_lines add column seats jsonb check (jsonb_array_length(seats) = quantity);

-- Of a reservation of seats: for which concert, and which order's hold has the seats since. Null for the hold of an order.
alter table holds add column concert_id uuid;
alter table holds add column moved_to uuid check (moved_to is null or (state = 'RELEASED' and concert_id is not null));
