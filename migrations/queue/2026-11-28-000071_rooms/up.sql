-- What a room in Redis is built from when Redis has lost it. Written every second; the order of those who wait is in their
-- signed tickets.
create table rooms (
    event_id    uuid primary key references sale_events (id),
    -- Raised each time that the room is built.
    epoch       bigint not null default 0,
    -- Numbers up to here may have been given. None is given twice.
    reserved_to bigint not null default 0,
    -- The last number whose turn has come, and the last that was given, when they were written.
    front       bigint not null default 0,
    issued      bigint not null default 0,
    -- Numbers up to here ended when everything was sold.
    floor       bigint not null default 0,
    -- The passes that were in use, and until when, in milliseconds of Redis' clock.
    active_seqs  bigint[] not null default '{}',
    active_until bigint[] not null default '{}',
    saved_at    timestamptz,
    -- When those who came early were put in order, and how many they were.
    drawn_at    timestamptz,
    drawn       bigint not null default 0,
    check (cardinality(active_seqs) = cardinality(active_until))
);

insert into rooms (event_id) select id from sale_events;

-- Who has come before the opening.
create table lobby (
    event_id  uuid not null references sale_events (id),
    user_id   uuid not null,
    ticket_id uuid not null,
    joined_at timestamptz not null default now(),
    -- By the draw.
    seq       bigint,
    primary key (event_id, user_id)
);
create unique index lobby_seq on lobby (event_id, seq) where seq is not null;

-- Passes that were used or given back: their signature is valid all the same until their time is up.
create table ended_passes (
    event_id uuid not null references sale_events (id),
    seq      bigint not null,
    user_id  uuid not null,
    ended_at timestamptz not null default now(),
    primary key (event_id, seq)
);

-- People whom an administrator let in beyond the rate.
create table admissions (
    id          uuid primary key,
    event_id    uuid not null references sale_events (id),
    count       integer not null check (count > 0),
    fingerprint bytea not null,
    admitted_by uuid not null,
    created_at  timestamptz not null default now()
);
