-- Stands before the scripts of the gate that need it. Of one product:
--   KEYS[1] stock:{id}  hash: epoch (when it was loaded, in milliseconds of PostgreSQL's clock), tokens (units to give)
--   KEYS[2] holds:{id}  sorted set: member `<hold id>:<quantity>`, score: when it expires, in milliseconds of Redis's clock
-- Redis does not roll a failed script back. So each script reads both keys first (a wrong type fails there) and then only
-- writes what cannot fail.

-- Members that one call puts back: Redis serves nobody else meanwhile, and the next call goes on.
local EXPIRED_MAX = 1000

local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function quantity_of(member)
    return tonumber(string.match(member, ':(%d+)$')) or 0
end

-- The members that have expired, and their units. Only reads.
local function expired(now)
    local members = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, EXPIRED_MAX)
    local units = 0
    for _, member in ipairs(members) do units = units + quantity_of(member) end
    return members, units
end

local function put_back(members, units)
    if #members > 0 then
        redis.call('ZREM', KEYS[2], unpack(members))
        redis.call('HINCRBY', KEYS[1], 'tokens', units)
    end
end

