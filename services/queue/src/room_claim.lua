-- Somebody near the front is here: the number counts as present, and an offered slot becomes a pass.
-- ARGV 1 account  2 number  3 epoch of the ticket   returns {place, moment, front, edge, epoch}
local m = redis.call('HMGET', KEYS[1], 'epoch', 'front', 'edge', 'floor', 'session_ms', 'grace_ms', 'since', 'hole_from',
  'hole_to', 'alive_ms')
if not m[1] or tonumber(ARGV[3]) > tonumber(m[1]) then return words({'COLD'}) end
local user, seq = ARGV[1], tonumber(ARGV[2])
local front, edge, session_ms, grace_ms = tonumber(m[2]), tonumber(m[3]), tonumber(m[5]), tonumber(m[6])
local standing, moment = place(seq, front, grace_ms)
if standing == 'ACTIVE' or standing == 'OFFERED' then own(user, seq, front, grace_ms) end
if standing == 'COMPLETED' or standing == 'LEFT' or standing == 'ACTIVE' then return words({standing, moment, front, edge, tonumber(m[1])}) end
if standing == 'OFFERED' then
  local till = now + session_ms
  redis.call('ZREM', KEYS[4], seq)
  redis.call('ZADD', KEYS[5], till, seq)
  return words({'ACTIVE', till, front, edge, tonumber(m[1])})
end
if seq <= tonumber(m[4]) then return words({'SOLD_OUT', 0, front, edge, tonumber(m[1])}) end
-- A room that was built again does not know who had been passed over: a ticket from before is believed for a while. No longer than
-- a pass of this room lasts, or whoever had one would come in again; but until everybody has had the time to show a ticket.
-- A place of the draw has no epoch, and is of the first room.
local believed_ms = math.max(tonumber(m[10]), math.min(grace_ms, session_ms))
local from_before = math.max(1, tonumber(ARGV[3])) < tonumber(m[1]) and now < tonumber(m[7]) + believed_ms
if standing == 'GONE' and not from_before then return words({'GONE', 0, front, edge, tonumber(m[1])}) end
local known = tonumber(redis.call('HGET', KEYS[2], user) or 0)
if known ~= 0 and known < seq and is_live(place(known, front, grace_ms)) then return words({'GONE', 0, front, edge, tonumber(m[1])}) end
own(user, seq, front, grace_ms)
redis.call('ZADD', KEYS[3], now, seq)
-- Numbers are given one after the other: those before this one were given as well.
if seq >= tonumber(m[8]) and seq <= tonumber(m[9]) then redis.call('HSET', KEYS[1], 'hole_from', seq + 1) end
if standing == 'WAITING' then return words({'WAITING', 0, front, edge, tonumber(m[1])}) end
redis.call('ZREM', KEYS[6], seq)
redis.call('ZADD', KEYS[7], seq, seq)
return words({'BACK', 0, front, edge, tonumber(m[1])})
