-- What every script of a room begins with.
-- KEYS 1 meta  2 who (account -> number)  3 seen (number -> when)  4 offer (number -> deadline)  5 active (number -> end of
--      the pass)  6 parked (number -> when it was passed over)  7 back (numbers that have come back)  8 ended (number -> why)
--      9 shown (number -> when its pass was first shown to buy)
-- A script is never undone: all checks come before the first write.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Where a number stands: its place, and the moment that goes with it.
local function place(seq, front, grace_ms)
  local why = redis.call('HGET', KEYS[8], seq)
  if why then return why, 0 end
  local till = tonumber(redis.call('ZSCORE', KEYS[5], seq) or 0)
  if till > now then return 'ACTIVE', till end
  till = tonumber(redis.call('ZSCORE', KEYS[4], seq) or 0)
  if till > now then return 'OFFERED', till end
  if tonumber(seq) > front then return 'WAITING', 0 end
  if redis.call('ZSCORE', KEYS[7], seq) then return 'BACK', 0 end
  local passed = tonumber(redis.call('ZSCORE', KEYS[6], seq) or 0)
  if passed + grace_ms > now then return 'PARKED', passed end
  return 'GONE', 0
end

local function remove(seq)
  for _, key in ipairs({3, 4, 5, 6, 7, 9}) do redis.call('ZREM', KEYS[key], seq) end
end

local function is_live(standing)
  return standing ~= 'GONE' and standing ~= 'COMPLETED' and standing ~= 'LEFT'
end

-- The account shows this number, or its pass. After a loss the room knows passes and slots, and not whose they are: the account
-- may have been given another number meanwhile. That one ends, even if it has a pass.
local function own(user, seq, front, grace_ms)
  local known = redis.call('HGET', KEYS[2], user)
  if known == tostring(seq) then return end
  if known and is_live(place(known, front, grace_ms)) then
    remove(known)
    redis.call('HSET', KEYS[8], known, 'LEFT')
  end
  redis.call('HSET', KEYS[2], user, seq)
end

-- What a script answers: words alone, so that whoever reads it needs no types.
local function words(list)
  for at, value in ipairs(list) do
    if type(value) == 'number' then list[at] = string.format('%.0f', value) end
  end
  return list
end
