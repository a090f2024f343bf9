-- Numbers: none is given beyond those reserved, none has its turn before it is given, those of a draw are 1 to n, and the
-- passes that were in use when the room was saved had had their turn.
select format('the room of %s has reserved %s, given %s, served %s', event_id, reserved_to, issued, front) as offender
from {queue}.rooms
where issued > reserved_to or front > reserved_to
union all
select format('the draw of %s has %s numbers up to %s, not %s', room.event_id, count(place.seq), max(place.seq), room.drawn) as offender
from {queue}.rooms as room
left join {queue}.lobby as place on place.event_id = room.event_id and place.seq is not null
group by room.event_id, room.drawn
having count(place.seq) <> room.drawn or coalesce(max(place.seq), 0) <> room.drawn
union all
select format('number %s of %s has a pass before its turn', seq, event_id) as offender
from {queue}.rooms, unnest(active_seqs) as seq
where seq > reserved_to
