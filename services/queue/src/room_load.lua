-- Builds a room from what PostgreSQL has. A newer one that is there already stays.
-- ARGV 1 epoch  2 next  3 ceil  4 front  5 floor  6 hole_from  7 hole_to  8 window  9 number of passes
--      then for each pass its number and its end, then the numbers of ended passes   returns 1 if it was built
local old = redis.call('HGET', KEYS[1], 'epoch')
if old and tonumber(old) >= tonumber(ARGV[1]) then return words({0}) end
for key = 1, 8 do redis.call('DEL', KEYS[key]) end
local front, window, passes = tonumber(ARGV[4]), tonumber(ARGV[8]), tonumber(ARGV[9])
for at = 10, 8 + 2 * passes, 2 do redis.call('ZADD', KEYS[5], ARGV[at + 1], ARGV[at]) end
for at = 10 + 2 * passes, #ARGV do redis.call('HSET', KEYS[8], ARGV[at], 'COMPLETED') end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'next', ARGV[2], 'ceil', ARGV[3], 'front', ARGV[4], 'floor', ARGV[5],
  'hole_from', ARGV[6], 'hole_to', ARGV[7], 'edge', front + window, 'ripe', front + window, 'edge_at', now, 'since', now,
  'bucket', 1, 'bts', now, 'extra', 0, 'stock', -1, 'version', 0, 'state', 'paused', 'cap', 0, 'rate', 1,
  'session_ms', 1, 'claim_ms', 1, 'alive_ms', 1, 'grace_ms', 1, 'window', window, 'waiting_max', 0)
return words({1})
