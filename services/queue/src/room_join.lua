-- Gives each of some accounts its number: one for each account, however often it asks.
-- ARGV accounts   returns for each {answer, number, front, edge, epoch}
local m = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'ceil', 'front', 'edge', 'state', 'waiting_max', 'grace_ms')
local epoch, front, edge, nxt = tonumber(m[1] or ''), tonumber(m[4] or ''), tonumber(m[5] or ''), tonumber(m[2] or '')

local function join(account)
  if not epoch then return words({'COLD'}) end
  local seq = redis.call('HGET', KEYS[2], account)
  if seq and is_live(place(seq, front, tonumber(m[8]))) then return words({'KNOWN', tonumber(seq), front, edge, epoch}) end
  if m[6] == 'final' then return words({'SOLD_OUT'}) end
  if m[6] == 'draining' then return words({'DRAINING'}) end
  if m[6] == 'closed' then return words({'CLOSED'}) end
  if nxt - 1 - front >= tonumber(m[7]) then return words({'FULL'}) end
  if nxt > tonumber(m[3]) then return words({'RESERVE', tonumber(m[3])}) end
  local got = nxt
  nxt = got + 1
  redis.call('HSET', KEYS[1], 'next', nxt)
  redis.call('HSET', KEYS[2], account, got)
  if got <= edge then redis.call('ZADD', KEYS[3], now, got) end
  return words({'NEW', got, front, edge, epoch})
end

local answers = {}
for at, account in ipairs(ARGV) do answers[at] = join(account) end
return answers
