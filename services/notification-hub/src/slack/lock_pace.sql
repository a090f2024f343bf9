-- Takes the turn of a channel and says how long its next message has to wait. No row: another replica has the turn.
-- $1: channel
select greatest(extract(epoch from channel_paces.next_send_at - clock_timestamp()), 0)::float8 as wait_seconds
from channel_paces
where channel_paces.channel = $1
for update skip locked
