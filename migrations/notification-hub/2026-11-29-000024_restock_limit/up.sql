-- The limit of restock alerts, of all replicas together: one row. Whoever sends holds its lock while it takes permits.
create table restock_limit (
    id smallint primary key default 1 check (id = 1),
    -- When the limit has its whole burst again, by the clock of this server.
    rested_at timestamptz not null
);

insert into restock_limit (rested_at) values (now());
