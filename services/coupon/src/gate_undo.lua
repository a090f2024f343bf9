-- Undoes a take that PostgreSQL has refused or could not store, once. KEYS also: 5 coupon:{id}:failed
-- ARGV: 1 the epoch of the take, 2 user, 3 entry, 4 what to note about a take that could not be stored, or nothing.
-- A gate that was loaded later never had it.
if ARGV[4] ~= '' then
    redis.call('RPUSH', KEYS[5], ARGV[4])
end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then return 0 end
redis.call('XDEL', KEYS[4], ARGV[3])
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'undone', 1)
redis.call('INCR', KEYS[2])
return 1
