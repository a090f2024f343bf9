-- Offers free slots to those who are next. Any replica may run it at any time: what it does follows from what is stored and
-- from Redis' clock.
-- ARGV 1 numbers to look at, at the most
-- returns {'OK', epoch, issued, front, edge, offers, passes, back, state, stock, released, rate}
local m = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'front', 'edge', 'ripe', 'edge_at', 'cap', 'rate', 'bucket', 'bts',
  'claim_ms', 'alive_ms', 'grace_ms', 'window', 'state', 'stock', 'since', 'extra', 'hole_from', 'hole_to', 'stock_at')
if not m[1] then return words({'COLD'}) end
local nxt, front, edge, ripe = tonumber(m[2]), tonumber(m[3]), tonumber(m[4]), tonumber(m[5])
local alive_ms, since = tonumber(m[12]), tonumber(m[17])
local released = redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
for _, seq in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now)) do redis.call('ZREM', KEYS[9], seq) end
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now - tonumber(m[13]))
local offers, passes = redis.call('ZCARD', KEYS[4]), redis.call('ZCARD', KEYS[5])

-- Numbers up to the edge must show that they are here. They are passed over no sooner than they had the time to.
local edge_at = tonumber(m[6])
if now - edge_at >= alive_ms then
  ripe, edge, edge_at = edge, math.max(edge, front + tonumber(m[14])), now
end

-- Rate by rate: a bucket of one second. What an administrator lets in comes on top of it, within the slots.
local per_ms, extra = tonumber(m[8]) / 60000, tonumber(m[18])
local size = math.max(1, per_ms * 1000)
local bucket = math.min(size, tonumber(m[9]) + math.max(0, now - tonumber(m[10])) * per_ms)
local admits = m[15] == 'open' or m[15] == 'draining'
local allowed = extra
if admits then allowed = allowed + math.floor(bucket) end
local slots = math.min(tonumber(m[7]) - offers - passes, allowed)
-- Whoever has shown the pass to buy does not compete for what is left: their units are held, so the stock does not have them any
-- more. That is sure of a pass that was shown two seconds before this stock was asked for: a hold takes less.
local stock = tonumber(m[16])
if stock >= 0 then
  local trying = math.max(0, passes - redis.call('ZCOUNT', KEYS[9], '-inf', tonumber(m[21] or 0) - 2000))
  slots = math.min(slots, stock - offers - trying)
end
if m[15] == 'final' or m[15] == 'closed' then slots = 0 end

local deadline, offered = now + tonumber(m[11]), 0
local function offer(seq)
  redis.call('ZADD', KEYS[4], deadline, seq)
  offered = offered + 1
end
-- First those who were passed over and have come back: their numbers are the lowest.
for _, seq in ipairs(slots > 0 and redis.call('ZRANGE', KEYS[7], 0, slots - 1) or {}) do
  redis.call('ZREM', KEYS[7], seq)
  if tonumber(redis.call('ZSCORE', KEYS[3], seq) or since) >= now - alive_ms then
    offer(seq)
  else
    redis.call('ZADD', KEYS[6], now, seq)
  end
  redis.call('ZREM', KEYS[3], seq)
end
local looked = 0
while offered < slots and front + 1 < nxt and looked < tonumber(ARGV[1]) do
  local seq = front + 1
  -- A hole: numbers of which nobody knows whether they were given before the room was lost. Whoever has one shows its ticket
  -- while somebody counts as present; nobody behind the hole is let in before that.
  local in_hole = seq >= tonumber(m[19]) and seq <= tonumber(m[20])
  if in_hole and now - since < alive_ms or seq > ripe and not in_hole then break end
  front, looked = seq, looked + 1
  -- Whoever has shown a pass after a loss has the slot already.
  if not in_hole and redis.call('HEXISTS', KEYS[8], seq) == 0 and not redis.call('ZSCORE', KEYS[5], seq) then
    if tonumber(redis.call('ZSCORE', KEYS[3], seq) or since) >= now - alive_ms then
      offer(seq)
    else
      redis.call('ZADD', KEYS[6], now, seq)
    end
    redis.call('ZREM', KEYS[3], seq)
  end
end
edge = math.max(edge, front)
ripe = math.max(ripe, front)
local beyond = math.min(extra, offered)
redis.call('HSET', KEYS[1], 'front', front, 'edge', edge, 'ripe', ripe, 'edge_at', edge_at, 'bts', now, 'extra', extra - beyond,
  'bucket', tostring(math.max(0, bucket - (offered - beyond))))
return words({'OK', tonumber(m[1]), nxt - 1, front, edge, offers + offered, passes, redis.call('ZCARD', KEYS[7]), m[15], stock,
  released, tonumber(m[8])})
