-- Messages that users read here, and what users do not want to be told.

-- One row for each user who has muted anything, so that replacing all of it is one statement.
create table notification_preferences (
    user_id uuid primary key,
    -- `TYPE:CHANNEL` each.
    muted text[] not null,
    updated_at timestamptz not null default now()
);

-- Rows that are there keep to the narrower rule, so there is nothing to validate.
alter table deliveries
    drop constraint deliveries_channel_check,
    add constraint deliveries_channel_check check (channel in ('EMAIL', 'SLACK', 'WEBHOOK', 'INAPP')) not valid;
