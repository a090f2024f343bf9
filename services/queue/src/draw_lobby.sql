-- Numbers for tickets, in their order.
-- $1 event, $2 the number before the first, $3 tickets
update lobby set seq = $2 + drawn.place
from unnest($3::uuid[]) with ordinality as drawn (ticket_id, place)
where lobby.event_id = $1 and lobby.ticket_id = drawn.ticket_id
