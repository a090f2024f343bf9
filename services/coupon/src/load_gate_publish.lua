-- Replaces a gate by what PostgreSQL has, unless it was loaded later than that. KEYS also: 5 coupon:{id}:issued-next:{epoch}
-- ARGV: 1 epoch, 2 how many may be taken, 3 opens, 4 closes, 5 state, 6 milliseconds that it is kept after the coupon closes.
-- Returns whether the gate was replaced. The takes of older gates are void: PostgreSQL refuses their epoch.
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '-1')
if epoch >= tonumber(ARGV[1]) then
    redis.call('DEL', KEYS[5])
    return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept_until = math.max(now, tonumber(ARGV[4])) + tonumber(ARGV[6])
kept_until = string.format('%.0f', kept_until)
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
if redis.call('EXISTS', KEYS[5]) == 1 then
    redis.call('RENAME', KEYS[5], KEYS[3])
    redis.call('PEXPIREAT', KEYS[3], kept_until)
end
redis.call('SET', KEYS[2], ARGV[2], 'PXAT', kept_until)
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'opens', ARGV[3], 'closes', ARGV[4], 'state', ARGV[5], 'kept_until', kept_until)
redis.call('PEXPIREAT', KEYS[1], kept_until)
return 1
