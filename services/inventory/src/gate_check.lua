-- ARGV: 1 milliseconds that an unsettled take lasts, 2 milliseconds that an unused gate is kept.
-- Returns {loaded, tokens, units that may be taken but not yet in PostgreSQL}.
local tokens = tonumber(redis.call('HGET', KEYS[1], 'tokens') or '')
if not tokens then return {0, 0, 0} end
local now = now_ms()
local due, units = lapsed(now)
local young = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, now + ARGV[1])) do
    young = young + quantity_of(member)
end
purge(due, units)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {1, tokens + units, young}
