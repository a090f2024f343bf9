-- Writes the deliveries of new notifications. Those marked are claimed as they are written, by the replica that writes
-- them: nobody else need look for them, and one update and one commit are saved for each. The lease begins now, not when
-- the transaction began.
-- $1: ids of deliveries
-- $2: ids of their notifications
-- $3: channels
-- $4: subjects
-- $5: bodies
-- $6: whether they are claimed
-- $7: priority
-- $8: lease in milliseconds
with draft as (
    select *
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::boolean[])
        as draft (id, notification_id, channel, subject, body, is_claimed)
)
insert into deliveries
    (id, notification_id, channel, subject, body, priority, status, attempt, lock_token, lease_until)
select
    draft.id,
    draft.notification_id,
    draft.channel,
    draft.subject,
    draft.body,
    $7,
    case when draft.is_claimed then 'PROCESSING' else 'PENDING' end,
    case when draft.is_claimed then 1 else 0 end,
    case when draft.is_claimed then 1 else 0 end,
    case when draft.is_claimed then clock_timestamp() + $8 * interval '1 millisecond' end
from draft
on conflict do nothing
returning
    id,
    lease_until is not null as is_claimed
