-- Stores notifications that were asked for, each with its deliveries. One whose id exists is left as it is.
--
-- One element for each notification; no two have one id:
--   $1 id
--   $2 event_id
--   $3 type
--   $4 user_id, or null
--   $5 data
--   $6 requested_by
--   $7 fingerprint
-- One element for each delivery:
--   $8 id
--   $9 notification_id
--   $10 channel
--   $11 target, or null
--   $12 subject
--   $13 body
--   $14 priority
--   $15 not before, or null
with stored as (
    insert into notifications (id, event_id, type, user_id, data, requested_by, fingerprint)
    select request.*
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::jsonb[], $6::uuid[], $7::bytea[])
        as request (id, event_id, type, user_id, data, requested_by, fingerprint)
    on conflict do nothing
    returning id
),
stored_deliveries as (
    insert into deliveries (id, notification_id, channel, target, subject, body, priority, next_attempt_at)
    select
        delivery.id,
        delivery.notification_id,
        delivery.channel,
        delivery.target,
        delivery.subject,
        delivery.body,
        delivery.priority,
        greatest(now(), delivery.not_before)
    from unnest(
        $8::uuid[], $9::uuid[], $10::text[], $11::text[], $12::text[], $13::text[], $14::smallint[], $15::timestamptz[]
    ) as delivery (id, notification_id, channel, target, subject, body, priority, not_before)
    join stored on stored.id = delivery.notification_id
)
select id from stored
