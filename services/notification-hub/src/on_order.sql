-- The first $7 are claimed as they are written, by the replica that writes them: nobody else need look for them, and
-- one update and one commit are saved for each. The lease begins now, not when the transaction began.
insert into deliveries
    (id, notification_id, channel, priority, subject, body, status, attempt, lock_token, lease_until)
select
    draft.id,
    draft.notification_id,
    $5,
    $6,
    draft.subject,
    draft.body,
    case when draft.place <= $7 then 'PROCESSING' else 'PENDING' end,
    case when draft.place <= $7 then 1 else 0 end,
    case when draft.place <= $7 then 1 else 0 end,
    case when draft.place <= $7 then clock_timestamp() + $8 * interval '1 millisecond' end
from unnest($1, $2, $3, $4) with ordinality as draft (id, notification_id, subject, body, place)
on conflict do nothing
returning
    id,
    lease_until is not null as is_claimed
