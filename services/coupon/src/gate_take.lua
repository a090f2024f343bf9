-- Takes one coupon for each of some users and notes it in the journal, or does nothing.
-- ARGV: 1 the newest epoch that the caller has seen, 2 a time (milliseconds) that has come by PostgreSQL's clock, then pairs of a
-- user and the id of his issue. Returns an answer for each user. SOLD_OUT comes with the time when the coupon closes, the epoch, the
-- number of takes that were undone, and the number of users: equal ones mean equal users.
-- PostgreSQL's clock decides when a coupon opens and closes. Redis's own clock is not asked.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'opens', 'closes', 'state', 'undone')
local epoch, left = tonumber(meta[1] or ''), tonumber(redis.call('GET', KEYS[2]) or '')
-- Lost; or older than what was seen before.
local is_cold = not epoch or not left or epoch < tonumber(ARGV[1])
local now = tonumber(ARGV[2])
local opens, closes = tonumber(meta[2] or ''), tonumber(meta[3] or '')

local function take(user, issue)
    local taken = redis.call('HGET', KEYS[3], user)
    if taken == STORED then return {'STORED'} end
    if taken then return {'PENDING', meta[1], taken} end
    if meta[4] ~= 'open' then return {'CLOSED'} end
    -- Nobody takes one before the opening, so nobody is told that all are gone because of those who came too early.
    if now < opens then return {'EARLY', meta[2]} end
    if now >= closes then return {'CLOSED'} end
    if left <= 0 then return {'SOLD_OUT', meta[3], meta[1], meta[5] or '0', tostring(redis.call('HLEN', KEYS[3]))} end
    local entry = redis.call('XADD', KEYS[4], '*', 'user', user, 'issue', issue)
    redis.call('HSET', KEYS[3], user, entry)
    left = redis.call('DECR', KEYS[2])
    return {'TAKEN', meta[1], entry}
end

local answers = {}
for i = 3, #ARGV, 2 do
    answers[#answers + 1] = is_cold and {'COLD'} or take(ARGV[i], ARGV[i + 1])
end
return answers
