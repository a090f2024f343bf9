-- The draw of a room waits until those who are coming have come.
-- $1 events
select event_id from rooms where event_id = any($1) order by event_id for share
