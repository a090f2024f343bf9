-- Passes that have ended, each once.
-- $1 events, $2 numbers, $3 accounts
insert into ended_passes (event_id, seq, user_id)
select ended.event_id, ended.seq, ended.user_id
from unnest($1::uuid[], $2::bigint[], $3::uuid[]) as ended (event_id, seq, user_id)
order by ended.event_id, ended.seq
on conflict do nothing
