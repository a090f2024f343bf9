-- Gives an account its number: one for each account, however often it asks.
-- ARGV 1 account   returns {answer, number, front, edge, epoch}
local m = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'ceil', 'front', 'edge', 'state', 'waiting_max', 'grace_ms')
if not m[1] then return words({'COLD'}) end
local seq = redis.call('HGET', KEYS[2], ARGV[1])
local front, edge, nxt = tonumber(m[4]), tonumber(m[5]), tonumber(m[2])
if seq and is_live(place(seq, front, tonumber(m[8]))) then return words({'KNOWN', tonumber(seq), front, edge, tonumber(m[1])}) end
if m[6] == 'final' then return words({'SOLD_OUT'}) end
if m[6] == 'draining' then return words({'DRAINING'}) end
if m[6] == 'closed' then return words({'CLOSED'}) end
if nxt - 1 - front >= tonumber(m[7]) then return words({'FULL'}) end
if nxt > tonumber(m[3]) then return words({'RESERVE', tonumber(m[3])}) end
redis.call('HSET', KEYS[1], 'next', nxt + 1)
redis.call('HSET', KEYS[2], ARGV[1], nxt)
if nxt <= edge then redis.call('ZADD', KEYS[3], now, nxt) end
return words({'NEW', nxt, front, edge, tonumber(m[1])})
