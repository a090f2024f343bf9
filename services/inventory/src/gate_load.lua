-- Collects the living holds of a product beside its gate, in as many calls as it takes. KEYS: 1 holds-next:{id}
-- ARGV: pairs of a member and the milliseconds until it expires (or 'inf').
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #ARGV, 2 do
    local score = ARGV[i + 1] == 'inf' and '+inf' or now + ARGV[i + 1]
    redis.call('ZADD', KEYS[1], score, ARGV[i])
end
-- If the process dies before it publishes them, the key goes by itself.
redis.call('PEXPIRE', KEYS[1], 10000)
return 1
