-- Takes the units of one product for each of some lines, one after the other.
-- ARGV: 1 milliseconds that a take lasts until an update keeps it, 2 the newest epoch that the caller has seen, then pairs of
-- a member and its quantity.
-- Returns {what, tokens left, epoch} for each line: 0 refused, 1 taken, 2 repeat (PostgreSQL has the answer), 3 not loaded.
local stock = redis.call('HMGET', KEYS[1], 'epoch', 'tokens')
local epoch, tokens = tonumber(stock[1] or ''), tonumber(stock[2] or '')
-- Lost; or older than what was seen before: Redis came back with old data.
local is_loaded = epoch and tokens and epoch >= tonumber(ARGV[2])

local answers, now, taken = {}, now_ms(), 0
if is_loaded then
    local members, units = expired(now)
    put_back(members, units)
    tokens = tokens + units
end

local function take(member, quantity)
    if not is_loaded then return {3, 0, 0} end
    local score = redis.call('ZSCORE', KEYS[2], member)
    -- A score that is no number is `inf`: a pinned hold does not expire.
    if score and (tonumber(score) or math.huge) > now then return {2, tokens, epoch} end
    if tokens < quantity then return {0, tokens, epoch} end
    redis.call('ZADD', KEYS[2], now + ARGV[1], member)
    tokens, taken = tokens - quantity, taken + quantity
    return {1, tokens, epoch}
end

for i = 3, #ARGV, 2 do
    answers[#answers + 1] = take(ARGV[i], tonumber(ARGV[i + 1]))
end
if taken > 0 then redis.call('HINCRBY', KEYS[1], 'tokens', -taken) end
return answers
