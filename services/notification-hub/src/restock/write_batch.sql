-- Writes the alerts of a batch: who is told, a notification and a delivery for each. The deliveries are claimed as they
-- are written, by the round's runner. Who has been told in this round is left out.
-- $1: product
-- $2: round
-- $3: subscriptions
-- $4: their users
-- $5: ids of notifications
-- $6: ids of their events
-- $7: ids of deliveries
-- $8: type of the notifications
-- $9: data for readers
-- $10: channel
-- $11: subject
-- $12: body
-- $13: priority
-- $14: lease in milliseconds
with draft as (
    select *
    from unnest($3::bigint[], $4::uuid[], $5::uuid[], $6::uuid[], $7::uuid[])
        as draft (subscription_id, user_id, notification_id, event_id, delivery_id)
),
told as (
    insert into product_user_notification_history (product_id, round, subscription_id, user_id, notification_id)
    select
        $1,
        $2,
        draft.subscription_id,
        draft.user_id,
        draft.notification_id
    from draft
    on conflict do nothing
    returning notification_id
),
noted as (
    insert into notifications (id, event_id, type, user_id, data)
    select
        draft.notification_id,
        draft.event_id,
        $8,
        draft.user_id,
        $9
    from draft
    join told on told.notification_id = draft.notification_id
    returning id
)
insert into deliveries
    (id, notification_id, channel, subject, body, priority, status, attempt, lock_token, lease_until)
select
    draft.delivery_id,
    draft.notification_id,
    $10,
    $11,
    $12,
    $13,
    'PROCESSING',
    1,
    1,
    clock_timestamp() + $14 * interval '1 millisecond'
from draft
join noted on noted.id = draft.notification_id
returning deliveries.id
