-- What of a room is saved in PostgreSQL, at one moment.
-- returns {'OK', epoch, issued, front, let in beyond the rate, number of passes, number of offers, then for each pass its number and its end, then the
--          numbers with an offered slot, then those who were passed over and have come back}
local m = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'front', 'granted', 'extra')
if not m[1] then return words({'COLD'}) end
local active = redis.call('ZRANGEBYSCORE', KEYS[5], '(' .. now, '+inf', 'WITHSCORES')
local offers = redis.call('ZRANGEBYSCORE', KEYS[4], '(' .. now, '+inf')
-- A room that was built by an older version does not know it.
local let_in = m[4] and tonumber(m[4]) - tonumber(m[5]) or 0
local answer = {'OK', tonumber(m[1]), tonumber(m[2]) - 1, tonumber(m[3]), let_in, #active / 2, #offers}
for _, word in ipairs(active) do table.insert(answer, tonumber(word)) end
for _, list in ipairs({offers, redis.call('ZRANGE', KEYS[7], 0, -1)}) do
  for _, seq in ipairs(list) do table.insert(answer, seq) end
end
return words(answer)
