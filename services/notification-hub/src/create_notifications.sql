-- Those marked are claimed as they are written, by the replica that writes them: nobody else need look for them, and
-- one update and one commit are saved for each. The lease begins now, not when the transaction began.
insert into deliveries
    (id, notification_id, channel, priority, subject, body, status, attempt, lock_token, lease_until)
select
    draft.id,
    draft.notification_id,
    draft.channel,
    $7,
    draft.subject,
    draft.body,
    case when draft.is_claimed then 'PROCESSING' else 'PENDING' end,
    case when draft.is_claimed then 1 else 0 end,
    case when draft.is_claimed then 1 else 0 end,
    case when draft.is_claimed then clock_timestamp() + $8 * interval '1 millisecond' end
from unnest($1, $2, $3, $4, $5, $6) as draft (id, notification_id, channel, subject, body, is_claimed)
on conflict do nothing
returning
    id,
    lease_until is not null as is_claimed
