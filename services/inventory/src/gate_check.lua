-- Counts what a gate has.
-- ARGV: 1 milliseconds that a take lasts until an update keeps it, 2 milliseconds that an unused gate is kept.
-- Returns {loaded, tokens, units of young takes: PostgreSQL may not have their holds yet}.
local tokens = tonumber(redis.call('HGET', KEYS[1], 'tokens') or '')
if not tokens then return {0, 0, 0} end
local now = now_ms()
local members, units = expired(now)
local young = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, now + ARGV[1])) do
    young = young + quantity_of(member)
end
put_back(members, units)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {1, tokens + units, young}
