-- Builds a room from what PostgreSQL has, with its rules, but that nobody is admitted yet. A newer one that is there stays.
-- ARGV 1 epoch  2 next  3 ceil  4 front  5 floor  6 hole_from  7 hole_to  8 version  9 stock  10 cap  11 rate  12 session_ms
--      13 claim_ms  14 alive_ms  15 grace_ms  16 window  17 waiting_max  18 number of passes
--      then for each pass its number and its end, then the numbers of ended passes   returns 1 if it was built
local old = redis.call('HGET', KEYS[1], 'epoch')
if old and tonumber(old) >= tonumber(ARGV[1]) then return words({0}) end
for key = 1, 8 do redis.call('DEL', KEYS[key]) end
local edge, passes, first = tonumber(ARGV[4]) + tonumber(ARGV[16]), tonumber(ARGV[18]), 19
for at = first, first + 2 * passes - 1, 2 do redis.call('ZADD', KEYS[5], ARGV[at + 1], ARGV[at]) end
for at = first + 2 * passes, #ARGV do redis.call('HSET', KEYS[8], ARGV[at], 'COMPLETED') end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'next', ARGV[2], 'ceil', ARGV[3], 'front', ARGV[4], 'floor', ARGV[5],
  'hole_from', ARGV[6], 'hole_to', ARGV[7], 'version', ARGV[8], 'stock', ARGV[9], 'cap', ARGV[10], 'rate', ARGV[11],
  'session_ms', ARGV[12], 'claim_ms', ARGV[13], 'alive_ms', ARGV[14], 'grace_ms', ARGV[15], 'window', ARGV[16],
  'waiting_max', ARGV[17], 'state', 'paused', 'edge', edge, 'ripe', edge, 'edge_at', now, 'since', now, 'bucket', 1,
  'bts', now, 'extra', 0)
return words({1})
