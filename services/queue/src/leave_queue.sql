-- Somebody who has come early leaves before the draw, which waits for this; or it has already numbered them, and nothing is deleted.
-- $1 event, $2 account, $3 ticket
with room as (
  select event_id from rooms where event_id = $1 and drawn_at is null for share
)
delete from lobby using room
where lobby.event_id = room.event_id and lobby.user_id = $2 and lobby.ticket_id = $3 and lobby.seq is null
