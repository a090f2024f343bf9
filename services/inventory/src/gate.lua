-- Stands before every script of the gate. Of one product:
--   KEYS[1] stock:{id}  hash: epoch (when it was loaded, in milliseconds of PostgreSQL's clock), tokens (units to give)
--   KEYS[2] holds:{id}  sorted set: member `<hold id>:<quantity>`, score: when it lapses, in milliseconds of Redis's clock
-- A script that fails half-way is not rolled back, so each reads both keys first (a wrong type fails there) and then
-- only writes what cannot fail.

-- More at once would stop everybody else; the next call takes the next ones.
local PURGE_MAX = 1000

local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function quantity_of(member)
    return tonumber(string.match(member, ':(%d+)$')) or 0
end

-- Takes that have lapsed, and the units they give back. Only reads.
local function lapsed(now)
    local members = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, PURGE_MAX)
    local units = 0
    for _, member in ipairs(members) do units = units + quantity_of(member) end
    return members, units
end

local function purge(members, units)
    if #members > 0 then
        redis.call('ZREM', KEYS[2], unpack(members))
        redis.call('HINCRBY', KEYS[1], 'tokens', units)
    end
end

