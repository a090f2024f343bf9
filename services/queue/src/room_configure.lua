-- Tells a room its rules. Older ones than it has change nothing, but for the stock, which has no version.
-- ARGV 1 version  2 stock (-1: unknown)  3 state  4 cap  5 rate  6 session_ms  7 claim_ms  8 alive_ms  9 grace_ms  10 window
--      11 waiting_max  12 milliseconds until a closed room is forgotten  13 milliseconds since the stock was asked for
--      returns {answer}
local m = redis.call('HMGET', KEYS[1], 'version', 'next', 'state')
if not m[1] then return words({'COLD'}) end
if tonumber(m[1]) > tonumber(ARGV[1]) then return words({'OLD'}) end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'stock', ARGV[2], 'state', ARGV[3], 'cap', ARGV[4], 'rate', ARGV[5],
  'session_ms', ARGV[6], 'claim_ms', ARGV[7], 'alive_ms', ARGV[8], 'grace_ms', ARGV[9], 'window', ARGV[10],
  'waiting_max', ARGV[11], 'stock_at', now - tonumber(ARGV[13]))
if ARGV[3] == 'final' and m[3] ~= 'final' then
  -- The line has ended. Passes go on until their time is up. A line that begins after a restock is as in a new room: its first
  -- people need not wait until everybody has had the time to show up.
  local last = tonumber(m[2]) - 1
  local edge = last + tonumber(ARGV[10])
  redis.call('HSET', KEYS[1], 'front', last, 'floor', last, 'edge', edge, 'ripe', edge, 'edge_at', now)
  for _, key in ipairs({3, 4, 6, 7}) do redis.call('DEL', KEYS[key]) end
end
if ARGV[3] == 'closed' then
  for key = 1, 9 do redis.call('PEXPIRE', KEYS[key], ARGV[12]) end
end
return words({'OK'})
