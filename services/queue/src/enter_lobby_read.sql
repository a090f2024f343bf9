-- The tickets of accounts that came early.
-- $1 events, $2 accounts
select lobby.event_id, lobby.user_id, lobby.ticket_id, lobby.seq
from unnest($1::uuid[], $2::uuid[]) as wanted (event_id, user_id)
join lobby on lobby.event_id = wanted.event_id and lobby.user_id = wanted.user_id
