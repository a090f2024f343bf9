-- Takes the units of one line.
-- ARGV: 1 member, 2 quantity, 3 milliseconds that a take lasts until an update keeps it, 4 the newest epoch that the caller
-- has seen.
-- Returns {what, tokens left, epoch}: 0 refused, 1 taken, 2 repeat (PostgreSQL has the answer), 3 not loaded.
local stock = redis.call('HMGET', KEYS[1], 'epoch', 'tokens')
local epoch, tokens = tonumber(stock[1] or ''), tonumber(stock[2] or '')
-- Lost; or older than what was seen before: Redis came back with old data.
if not epoch or not tokens or epoch < tonumber(ARGV[4]) then return {3, 0, 0} end

local now, quantity = now_ms(), tonumber(ARGV[2])
local members, units = expired(now)
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
-- A score that is no number is `inf`: a pinned hold does not expire.
local repeated = score and (tonumber(score) or math.huge) > now
put_back(members, units)
tokens = tokens + units

if repeated then return {2, tokens, epoch} end
if tokens < quantity then return {0, tokens, epoch} end
redis.call('HINCRBY', KEYS[1], 'tokens', -quantity)
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
return {1, tokens - quantity, epoch}
