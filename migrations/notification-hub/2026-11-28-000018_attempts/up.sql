-- Every attempt to send a delivery, for whoever asks what happened.
create table delivery_attempts (
    delivery_id uuid not null references deliveries (id) on delete cascade,
    -- The claim that it was made under: each claim makes one attempt at the most.
    lock_token bigint not null,
    -- Null: it was sent.
    error text,
    ended_at timestamptz not null,
    primary key (delivery_id, lock_token)
);
