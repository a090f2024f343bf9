-- Who is next when a room is built again: those with an offered slot, and those who were passed over and have come back.
-- Without them, others who come after them would have the slots first.
alter table rooms
    add column offered_seqs bigint[] not null default '{}',
    add column back_seqs bigint[] not null default '{}',
    -- When the epoch was raised, and so when a process began to build the room.
    add column raised_at timestamptz;
