-- Collects the users of a coupon beside its gate, in as many calls as it takes. KEYS: 1 coupon:{id}:issued-next:{epoch}
-- ARGV: users.
for _, user in ipairs(ARGV) do redis.call('HSET', KEYS[1], user, '-') end
-- If the process dies before it publishes them, the key goes by itself.
redis.call('PEXPIRE', KEYS[1], 60000)
return 1
