-- Gives the lock of a load back. KEYS: 1 coupon:{id}:loading. ARGV: 1 the load's token.
-- A load that took too long has lost it, and it is another one's now.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
