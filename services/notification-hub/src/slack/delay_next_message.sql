-- Moves the next message of a channel into the future; never nearer than it is.
-- $1: seconds from now
-- $2: channel
update channel_paces
set next_send_at = greatest(channel_paces.next_send_at, clock_timestamp() + $1 * interval '1 second')
where channel_paces.channel = $2
