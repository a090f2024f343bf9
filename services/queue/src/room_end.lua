-- A pass was used, or somebody has left.
-- ARGV 1 account  2 number, or '' for the account's own  3 COMPLETED or LEFT   returns {answer, number}: ENDED if it had ended
local m = redis.call('HMGET', KEYS[1], 'epoch', 'front', 'grace_ms')
if not m[1] then return words({'COLD'}) end
local seq = ARGV[2]
if seq == '' then seq = redis.call('HGET', KEYS[2], ARGV[1]) end
if not seq then return words({'NONE'}) end
local standing = place(seq, tonumber(m[2]), tonumber(m[3]))
if standing == 'COMPLETED' or standing == 'LEFT' then return words({'ENDED', tonumber(seq)}) end
if not is_live(standing) then return words({'NONE'}) end
if ARGV[3] == 'COMPLETED' and standing ~= 'ACTIVE' then return words({'NONE'}) end
remove(seq)
redis.call('HSET', KEYS[8], seq, ARGV[3])
return words({'DONE', tonumber(seq)})
