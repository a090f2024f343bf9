-- Tells the gate what PostgreSQL has stored.
-- ARGV: 1 the epoch of the takes, then pairs of a user and the entry of his take.
-- A gate that was loaded later has them already.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
local kept_until = redis.call('HGET', KEYS[1], 'kept_until')
for i = 2, #ARGV, 2 do
    local user, entry = ARGV[i], ARGV[i + 1]
    local taken = redis.call('HGET', KEYS[3], user)
    redis.call('XDEL', KEYS[4], entry)
    if not taken then
        -- It was undone before its outcome was known, and stored all the same: its unit is taken again.
        redis.call('DECR', KEYS[2])
    elseif taken ~= STORED then
        -- Also a later take of the same user: the unit that it took is that of the stored issue.
        redis.call('XDEL', KEYS[4], taken)
    end
    redis.call('HSET', KEYS[3], user, STORED)
end
redis.call('PEXPIREAT', KEYS[3], kept_until)
redis.call('PEXPIREAT', KEYS[4], kept_until)
return 1
