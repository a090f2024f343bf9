-- Takes one coupon for a user, notes it in the journal, or does nothing.
-- ARGV: 1 user, 2 issue id, 3 the newest epoch that the caller has seen, 4 milliseconds by which clocks may differ: this clock
-- only filters, PostgreSQL's decides.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'opens', 'closes', 'state')
local epoch, left = tonumber(meta[1] or ''), tonumber(redis.call('GET', KEYS[2]) or '')
-- Lost; or older than what was seen before.
if not epoch or not left or epoch < tonumber(ARGV[3]) then return {'COLD'} end

local taken = redis.call('HGET', KEYS[3], ARGV[1])
if taken == STORED then return {'STORED'} end
if taken then return {'PENDING', meta[1], taken} end
if meta[4] ~= 'open' then return {'CLOSED'} end

local time, slack = redis.call('TIME'), tonumber(ARGV[4])
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local opens, closes = tonumber(meta[2]), tonumber(meta[3])
if now + slack < opens then return {'EARLY', tostring(opens - now)} end
if now >= closes + slack then return {'CLOSED'} end
if left <= 0 then return {'SOLD_OUT'} end

local entry = redis.call('XADD', KEYS[4], '*', 'user', ARGV[1], 'issue', ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1], entry)
redis.call('DECR', KEYS[2])
return {'TAKEN', meta[1], entry}
