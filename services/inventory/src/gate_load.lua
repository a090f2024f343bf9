-- Collects live holds beside the gate, in as many calls as it takes. KEYS: 1 holds-next:{id}
-- ARGV: 1 'first' or 'more', then pairs: member, milliseconds until it lapses (or 'inf').
if ARGV[1] == 'first' then redis.call('DEL', KEYS[1]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 2 do
    local score = ARGV[i + 1] == 'inf' and '+inf' or now + ARGV[i + 1]
    redis.call('ZADD', KEYS[1], score, ARGV[i])
end
-- Should the rebuilder die here, nothing stays behind.
redis.call('PEXPIRE', KEYS[1], 10000)
return 1
