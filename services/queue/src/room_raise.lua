-- More numbers may be given, or more people let in.
-- ARGV 1 'ceil' and 2 the new one, or 1 'extra', 2 how many and 3 the id of the request   returns {answer}
if redis.call('EXISTS', KEYS[1]) == 0 then return words({'COLD'}) end
if ARGV[1] == 'ceil' then
  if tonumber(redis.call('HGET', KEYS[1], 'ceil')) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], 'ceil', ARGV[2]) end
elseif redis.call('HSETNX', KEYS[1], 'extra:' .. ARGV[3], ARGV[2]) == 1 then
  redis.call('HINCRBY', KEYS[1], 'extra', ARGV[2])
end
return words({'OK'})
