-- A thread: its checkpoints, each of which is a whole state under a version, and never changes.
--
-- KEYS[1] remembered operations: lib/once.lua
-- KEYS[2] versions: sorted set, "<version> <at>" -> version, `at` being milliseconds
-- KEYS[3] states: hash, version -> state, which is opaque
-- The latest checkpoint is the one with the greatest version: there is no pointer that could go back.

local call = redis.call
local versions, states = KEYS[2], KEYS[3]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function whole(number) return string.format('%.0f', number) end

local function version_of(member) return member and string.match(member, '^%d+') end

local function latest_version() return version_of(call('ZRANGE', versions, '-1', '-1')[1]) end

-- "<version> <at>", or nil.
local function checkpoint(version) return call('ZRANGEBYSCORE', versions, version, version)[1] end

local function add_checkpoint(version, at, state)
  call('ZADD', versions, version, version .. ' ' .. at)
  call('HSET', states, version, state)
end

-- Drop the oldest checkpoints, so that `most` are left. Returns how many went.
local function keep_latest(most)
  local old = call('ZRANGE', versions, '0', whole(-most - 1))
  for _, member in ipairs(old) do
    call('ZREM', versions, member)
    call('HDEL', states, version_of(member))
  end
  return #old
end

-- End the thread after so many milliseconds; 0 never, -1 as it would anyway.
local function end_thread(ttl)
  for _, key in ipairs({states, versions}) do
    if ttl > 0 then call('PEXPIREAT', key, whole(now + ttl)) elseif ttl == 0 then call('PERSIST', key) end
  end
end
