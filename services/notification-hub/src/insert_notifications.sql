-- Stores notifications, each with its deliveries. One whose id exists is left as it is, and its deliveries are. Those marked
-- are claimed as they are written, by the replica that writes them: nobody else need look for them, and one update and one
-- commit are saved for each. Their lease begins now, not when the transaction began.
--
-- One element for each notification; no two have one id:
--   $1 id
--   $2 event_id
--   $3 type
--   $4 user_id, or null
--   $5 data
--   $6 requested_by, or null
--   $7 fingerprint, or null
--   $8 traceparent, or null
-- One element for each delivery:
--   $9 id
--   $10 notification_id
--   $11 channel
--   $12 target, or null
--   $13 subject
--   $14 body
--   $15 whether the body is mark-up
--   $16 priority
--   $17 not before, or null
--   $18 whether it is claimed
-- $19: lease in milliseconds
with stored as (
    insert into notifications (id, event_id, type, user_id, data, requested_by, fingerprint, traceparent)
    select request.*
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::jsonb[], $6::uuid[], $7::bytea[], $8::text[])
        as request (id, event_id, type, user_id, data, requested_by, fingerprint, traceparent)
    on conflict do nothing
    returning id
),
stored_deliveries as (
    insert into deliveries
        (id, notification_id, channel, target, subject, body, is_markup, priority, next_attempt_at, status, attempt,
         lock_token, lease_until)
    select
        delivery.id,
        delivery.notification_id,
        delivery.channel,
        delivery.target,
        delivery.subject,
        delivery.body,
        delivery.is_markup,
        delivery.priority,
        greatest(now(), delivery.not_before),
        case when delivery.is_claimed then 'PROCESSING' else 'PENDING' end,
        delivery.is_claimed::integer,
        delivery.is_claimed::integer,
        case when delivery.is_claimed then clock_timestamp() + $19 * interval '1 millisecond' end
    from unnest(
        $9::uuid[], $10::uuid[], $11::text[], $12::text[], $13::text[], $14::text[], $15::boolean[], $16::smallint[],
        $17::timestamptz[], $18::boolean[]
    ) as delivery
        (id, notification_id, channel, target, subject, body, is_markup, priority, not_before, is_claimed)
    join stored on stored.id = delivery.notification_id
)
select id from stored
