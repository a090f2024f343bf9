-- Applies what PostgreSQL has committed.
-- ARGV: groups of four: mark, member, quantity, milliseconds.
--   keep  PostgreSQL has the hold: the member expires after so many milliseconds (or 'inf'). If the gate has lost the
--         member, its units are taken now.
--   back  the hold is over, or was never made: its units go back, once.
--   sold  the hold is a sale: the member goes, its units do not come back.
--   units so many units came into the stock or left it; no member.
local tokens = tonumber(redis.call('HGET', KEYS[1], 'tokens') or '')
if not tokens then return 0 end
redis.call('ZCARD', KEYS[2])

local now, change = now_ms(), 0
for i = 1, #ARGV, 4 do
    local mark, member, quantity, remaining = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
    if mark == 'keep' then
        local score = remaining == 'inf' and '+inf' or now + remaining
        if redis.call('ZADD', KEYS[2], score, member) == 1 then change = change - quantity end
    elseif mark == 'back' then
        if redis.call('ZREM', KEYS[2], member) == 1 then change = change + quantity end
    elseif mark == 'sold' then
        redis.call('ZREM', KEYS[2], member)
    elseif mark == 'units' then
        change = change + quantity
    end
end
if change ~= 0 then redis.call('HINCRBY', KEYS[1], 'tokens', change) end
return 1
