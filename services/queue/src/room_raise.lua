-- More numbers may be given, or more people let in.
-- ARGV 1 'ceil' and 2 the new one, or 1 'granted' and 2 how many people in all are let in beyond the rate   returns {answer}
-- A room that was built by an older version knows no sum: those from before count as come.
if redis.call('EXISTS', KEYS[1]) == 0 then return words({'COLD'}) end
if ARGV[1] == 'ceil' then
  if tonumber(redis.call('HGET', KEYS[1], 'ceil')) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], 'ceil', ARGV[2]) end
else
  local more = tonumber(ARGV[2]) - tonumber(redis.call('HGET', KEYS[1], 'granted') or ARGV[2])
  if more > 0 then
    redis.call('HINCRBY', KEYS[1], 'extra', more)
  end
  if more >= 0 then redis.call('HSET', KEYS[1], 'granted', ARGV[2]) end
end
return words({'OK'})
