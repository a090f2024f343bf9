-- Builds a room from what PostgreSQL has, with its rules, but that nobody is admitted yet. A newer one that is there stays.
-- ARGV 1 epoch  2 next  3 ceil  4 front  5 floor  6 hole_from  7 hole_to  8 version  9 stock  10 cap  11 rate  12 session_ms
--      13 claim_ms  14 alive_ms  15 grace_ms  16 window  17 waiting_max  18 let in beyond the rate, in all  19 of them still to come
--      20 number of passes  21 of offers  22 of those who are back  then for each pass its number and its end, then the numbers of the offers, of those who are back, and of ended passes
--      returns 1 if it was built
local old = redis.call('HGET', KEYS[1], 'epoch')
if old and tonumber(old) >= tonumber(ARGV[1]) then return words({0}) end
for key = 1, 9 do redis.call('DEL', KEYS[key]) end
local edge, at = tonumber(ARGV[4]) + tonumber(ARGV[16]), 22
local function numbers(count, add)
  for _ = 1, tonumber(count) do
    at = at + 1
    add(ARGV[at])
  end
end
numbers(ARGV[20], function(seq)
  at = at + 1
  redis.call('ZADD', KEYS[5], ARGV[at], seq)
end)
-- Their time to claim the slot begins again.
numbers(ARGV[21], function(seq) redis.call('ZADD', KEYS[4], now + tonumber(ARGV[13]), seq) end)
numbers(ARGV[22], function(seq) redis.call('ZADD', KEYS[7], seq, seq) end)
numbers(#ARGV - at, function(seq) redis.call('HSET', KEYS[8], seq, 'COMPLETED') end)
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'next', ARGV[2], 'ceil', ARGV[3], 'front', ARGV[4], 'floor', ARGV[5],
  'hole_from', ARGV[6], 'hole_to', ARGV[7], 'version', ARGV[8], 'stock', ARGV[9], 'cap', ARGV[10], 'rate', ARGV[11],
  'session_ms', ARGV[12], 'claim_ms', ARGV[13], 'alive_ms', ARGV[14], 'grace_ms', ARGV[15], 'window', ARGV[16],
  'waiting_max', ARGV[17], 'state', 'paused', 'edge', edge, 'ripe', edge, 'edge_at', now, 'since', now, 'bucket', 1,
  'bts', now, 'granted', ARGV[18], 'extra', ARGV[19])
return words({1})
