-- Collects the users of a coupon beside its gate, in as many calls as it takes.
-- KEYS: 1 coupon:{id}:issued-next:{epoch}, 2 coupon:{id}:loading
-- ARGV: 1 the load's token, 2 milliseconds that the lock is kept from now on, then users.
-- Returns 0 if the lock is another load's now: that one counts anew, and this one stops.
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
    redis.call('DEL', KEYS[1])
    return 0
end
-- A load that waited long for PostgreSQL has lost the lock. While nobody else has it, the load goes on: it would be as slow the
-- next time.
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
for i = 3, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], '-') end
-- If the process dies before it publishes them, the key goes by itself.
redis.call('PEXPIRE', KEYS[1], 60000)
return 1
