-- A rate that all processes share (GCRA), by the clock of Redis.
-- KEYS[1] the limit's key, in braces
-- ARGV[1] microseconds between two permits
-- ARGV[2] permits that a rested limit gives at once, at least 1
-- ARGV[3] permits wanted
-- ARGV[4] microseconds for which nothing is given where the key is not there, 0: it is rested. The key was lost with Redis'
--         memory, or nobody has asked for a day; processes that were cut off may still be taking their shares
-- Returns the permits granted and, where that is none, the microseconds until there is one.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, wanted, pause = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('GET', KEYS[1])
local day = 86400000
if not known and pause > 0 then
    redis.call('SET', KEYS[1], string.format('%.0f', now + pause + (burst - 1) * interval), 'PX', day)
    return {0, pause}
end
-- The theoretical arrival time of the next permit: when the limit is rested again.
local rested_at = math.max(tonumber(known or '0'), now)
local granted = math.min(wanted, math.floor((now + burst * interval - rested_at) / interval))
if granted <= 0 then
    return {0, math.ceil(rested_at - (burst - 1) * interval - now)}
end
rested_at = rested_at + granted * interval
-- A rested limit needs no key, unless its loss means something.
local kept = pause > 0 and day or math.ceil((rested_at - now) / 1000) + 1000
redis.call('SET', KEYS[1], string.format('%.0f', rested_at), 'PX', kept)
return {granted, 0}
