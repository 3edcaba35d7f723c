-- A state: one hash, which ends as a whole.
--
-- KEYS[1] remembered operations: lib/once.lua
-- KEYS[2] the state: `task`, `variable:<name>` and `context:<place>` are opaque, the places being 1 to `depth`, of
--         which the last is the top of the stack; `last_active` is milliseconds
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] ttl (0: none, -1: as it is)

local call = redis.call
local state, ttl = KEYS[2], tonumber(ARGV[4])
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function whole(number) return string.format('%.0f', number) end

local function depth() return tonumber(call('HGET', state, 'depth') or 0) end

-- The state has been changed: it is active now, and lives for `ttl`.
local function note_activity()
  call('HSET', state, 'last_active', whole(now))
  if ttl > 0 then call('PEXPIREAT', state, whole(now + ttl)) elseif ttl == 0 then call('PERSIST', state) end
end
