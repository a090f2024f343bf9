-- Those who come early, each account once and with its first ticket, while people may and the sale has not begun.
-- $1 events, $2 accounts, $3 tickets
insert into lobby (event_id, user_id, ticket_id)
select early.event_id, early.user_id, early.ticket_id
from unnest($1::uuid[], $2::uuid[], $3::uuid[]) with ordinality as early (event_id, user_id, ticket_id, place)
join rooms on rooms.event_id = early.event_id and rooms.drawn_at is null
join sale_events as event on event.id = early.event_id and event.status = 'PENDING' and event.opens_at > clock_timestamp()
  and event.prequeue_at <= clock_timestamp()
order by early.event_id, early.user_id, early.place
on conflict (event_id, user_id) do nothing
returning event_id, user_id, ticket_id, seq
