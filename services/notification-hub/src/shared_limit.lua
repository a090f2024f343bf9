-- A rate that all processes share (GCRA), by the clock of Redis.
-- KEYS[1] the limit's key, in braces
-- ARGV[1] microseconds between two permits
-- ARGV[2] permits that a rested limit gives at once, at least 1
-- ARGV[3] permits wanted
-- Returns the permits granted and, where that is none, the microseconds until there is one.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- The theoretical arrival time of the next permit: when the limit is rested again.
local rested_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local granted = math.min(wanted, math.floor((now + burst * interval - rested_at) / interval))
if granted <= 0 then
    return {0, math.ceil(rested_at - (burst - 1) * interval - now)}
end
rested_at = rested_at + granted * interval
-- A rested limit needs no key.
redis.call('SET', KEYS[1], string.format('%.0f', rested_at), 'PX', math.ceil((rested_at - now) / 1000) + 1000)
return {granted, 0}
