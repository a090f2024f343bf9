-- Whether a pass, whose signature is good, is in use.
-- ARGV 1 number  2 epoch of the pass  3 its end in milliseconds  4 account  5 1: to buy   returns {answer}
local m = redis.call('HMGET', KEYS[1], 'epoch', 'front', 'grace_ms')
local epoch = m[1]
if not epoch or tonumber(ARGV[2]) > tonumber(epoch) then return words({'COLD'}) end
if redis.call('HEXISTS', KEYS[8], ARGV[1]) == 1 then return words({'ENDED'}) end
local function shown()
  if ARGV[5] == '1' then redis.call('ZADD', KEYS[9], 'NX', now, ARGV[1]) end
end
local till = tonumber(redis.call('ZSCORE', KEYS[5], ARGV[1]) or 0)
if till > now then
  own(ARGV[4], ARGV[1], tonumber(m[2]), tonumber(m[3]))
  shown()
  return words({'OK'})
end
-- Redis has lost it: the signature stands for it, and it takes up its slot again.
if tonumber(ARGV[2]) < tonumber(epoch) and tonumber(ARGV[3]) > now then
  remove(ARGV[1])
  redis.call('ZADD', KEYS[5], ARGV[3], ARGV[1])
  own(ARGV[4], ARGV[1], tonumber(m[2]), tonumber(m[3]))
  shown()
  return words({'OK'})
end
return words({'EXPIRED'})
