-- Permits to send restock alerts, for all replicas together (GCRA). A key that is not there was lost with Redis' memory, or
-- nobody has asked for a day: replicas that were cut off may still be taking their shares, so nothing is given for a while.
-- KEYS[1] the theoretical arrival time, in microseconds
-- ARGV: 1 interval in microseconds  2 burst  3 permits wanted  4 the pause after a loss, in microseconds
-- -> {granted, microseconds until the next}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, wanted, pause = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local day = 86400000
local known = redis.call('GET', KEYS[1])
if not known then
    redis.call('SET', KEYS[1], string.format('%.0f', now + pause + (burst - 1) * interval), 'PX', day)
    return {0, pause}
end
local tat = math.max(tonumber(known), now)
local granted = math.min(wanted, math.floor((now + burst * interval - tat) / interval))
if granted <= 0 then
    return {0, math.ceil(tat - (burst - 1) * interval - now)}
end
redis.call('SET', KEYS[1], string.format('%.0f', tat + granted * interval), 'PX', day)
return {granted, 0}
