-- Texts of notifications, as administrators write them. The texts that the hub has by itself are in the program: version 0.

create table notification_templates (
    name text not null,
    channel text not null check (channel in ('EMAIL', 'SLACK', 'WEBHOOK', 'INAPP')),
    language text not null check (language in ('ko', 'en')),
    -- A version never changes.
    version integer not null check (version > 0),
    -- Derived from the request that made it, so that a repeat makes no second version.
    id uuid not null unique,
    fingerprint bytea not null,
    subject text not null,
    body text not null,
    -- What the text was tried with before it was stored. Null: with the samples that the program has.
    sample jsonb,
    -- The version that is sent. None of a text is: version 0 is.
    is_active boolean not null default false,
    created_by uuid not null,
    created_at timestamptz not null default now(),
    primary key (name, channel, language, version)
);

create unique index notification_templates_active on notification_templates (name, channel, language) where is_active;

-- A user without a row, or without a language, gets the language of the settings.
alter table notification_preferences
    add column language text check (language in ('ko', 'en'));

-- Whether the body is the channel's own mark-up, with everything in it escaped that did not come from its template.
alter table deliveries
    add column is_markup boolean not null default false;

-- Who is told in a round is written before the notifications are, in one transaction.
alter table product_user_notification_history
    alter constraint product_user_notification_history_notification_id_fkey deferrable initially deferred;
