-- Replaces a gate by what PostgreSQL has, unless it was loaded later than that.
-- KEYS: 1 stock:{id}, 2 holds:{id}, 3 holds-next:{id}. ARGV: 1 epoch, 2 tokens, 3 milliseconds that an unused gate is kept.
-- Returns whether the gate was replaced. It loses the takes whose holds are not committed yet; their `keep` after the commit
-- takes them again.
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if epoch >= tonumber(ARGV[1]) then
    redis.call('DEL', KEYS[3])
    return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
if redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('RENAME', KEYS[3], KEYS[2])
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'tokens', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
