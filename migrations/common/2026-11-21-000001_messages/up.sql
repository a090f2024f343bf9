-- What a service has to tell (outbox_events), what it has heard (inbox) and what it could not digest (parked).

-- One row for each event, written in the transaction that makes the event true.
--
-- Its columns serve Debezium's outbox event router as well, should change data capture ever replace the relay:
--   table.field.event.id=event_id        table.field.event.key=key        table.field.event.payload=payload
--   route.by.field=topic                 route.topic.replacement=<namespace>${routedByValue}
--   table.field.event.timestamp          is not set: the time of the event travels as a header
--   table.expand.json.payload=false      with StringConverter, so that the JSON is sent byte for byte
--   table.fields.additional.placement=event_id:header:ce_id,topic:header:ce_type,key:header:ce_subject,
--     aggregate_version:header:ce_aggregateversion,created_at:header:ce_time,headers:header:headers
--   table.op.invalid.behavior=warn       because marking a row PUBLISHED is an update, which the router skips
create table outbox_events (
    -- The order of sending. A transaction inserts after it has locked its aggregate, so two events of one aggregate
    -- have ids in the order of their commits. This needs a sequence without cache, which is the default.
    id                bigint generated always as identity primary key,
    -- Derived from topic, key and version, so two different events with one version, which is a bug in the aggregate's
    -- locking, are an error.
    event_id          uuid        not null unique,
    -- A function of the key, so that an aggregate stays in one shard. `outbox::SHARDS` is the number of shards.
    shard             smallint    not null check (shard between 0 and 7),
    aggregate_type    text        not null,
    -- Without the namespace.
    topic             text        not null,
    key               text        not null,
    aggregate_version bigint      not null,
    -- Text and not jsonb: it is sent as it was written. The bound keeps a message below Kafka's default of 1 MiB.
    payload           text        not null check (octet_length(payload) <= 900000),
    -- `traceparent` and `requestid`; the CloudEvents attributes come from the columns.
    headers           jsonb       not null default '{}',
    status            text        not null default 'NEW' check (status in ('NEW', 'PUBLISHED', 'DEAD')),
    -- Times that the broker refused this very message. An absent broker is not counted.
    attempts          integer     not null default 0,
    -- Not sent before. Since it is per row and the relay keeps the order per key, it delays the rest of the key too.
    due_at            timestamptz not null default now(),
    created_at        timestamptz not null default now(),
    -- The first time. A replay does not move it, so a row is not kept longer for having been replayed.
    published_at      timestamptz,
    last_error        text
) with (
    -- Every row is updated once and deleted once. Dead rows between the relay and the next batch cost it latency, so
    -- they go early and without the usual pauses, however large the table is.
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);

create index outbox_events_new on outbox_events (shard, id) where status = 'NEW';

-- Empty unless something is wrong, so asking whether a key is blocked costs next to nothing.
create index outbox_events_blocked on outbox_events (topic, key, id)
    where status = 'DEAD' or (status = 'NEW' and attempts > 0);

create index outbox_events_published on outbox_events (published_at) where status = 'PUBLISHED';

-- The Kafka cluster that PUBLISHED refers to: one row.
create table outbox_broker (
    only_row   boolean     primary key default true check (only_row),
    cluster_id text        not null,
    since      timestamptz not null default now()
);

-- The events that a consumer has seen: written in the transaction that applies them.
create table inbox (
    consumer text not null,
    event_id uuid not null,
    -- Of arrival. Rows go after `inbox.retention_days` (14). That is safe because nothing is delivered again that
    -- late: the outbox forgets an event a day after it was first published, and Kafka a week after that.
    day      date not null default current_date,
    primary key (consumer, event_id)
);

create index inbox_day on inbox (day);

-- Events that a consumer could not apply, and those that came behind them with the same key.
create table parked (
    seq                 bigint generated always as identity primary key,
    consumer            text        not null,
    -- Without the namespace.
    topic               text        not null,
    -- Null when the message has none: it then has no order to keep and blocks nobody.
    key                 text,
    event_id            uuid        not null,
    partition           integer     not null,
    kafka_offset        bigint      not null,
    headers             jsonb       not null,
    payload             bytea       not null,
    error               text        not null,
    parked_at           timestamptz not null default now(),
    replay_requested_at timestamptz,
    unique (consumer, event_id)
);

create index parked_key on parked (consumer, topic, key, seq);
