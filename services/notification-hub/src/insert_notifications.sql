-- Writes a notification for each event that has none yet.
-- $1: type of the notifications
-- $2: ids of notifications
-- $3: ids of their events
-- $4: accounts they are for; null: for operators only
-- $5: data for readers
insert into notifications (type, id, event_id, user_id, data)
select
    $1,
    draft.id,
    draft.event_id,
    draft.user_id,
    draft.data
from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::jsonb[]) as draft (id, event_id, user_id, data)
on conflict do nothing
