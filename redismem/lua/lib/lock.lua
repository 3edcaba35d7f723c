-- A lock for one writer or many readers, first come first served.
--
-- KEYS[1]  lock: hash, owner -> "<mode> <token> <the millisecond at which the lease ends>"
-- KEYS[2]  queue: sorted set of owners that wait, by arrival
-- KEYS[3]  waiting: hash, owner -> "<mode> <the millisecond until which it is believed alive> <lease> <wake-up key>"
-- KEYS[4]  fence: string, the greatest token granted; it outlives the lock
-- KEYS[5]  wake-up list of the caller, who may wait in BLPOP for what is pushed when the lock is handed to it
-- Wake-up keys of others were named by them when they joined the queue; they are in the same slot.
-- A mode is "w" or "r". Times are milliseconds, by the server's clock.

local call = redis.call
local lock, queue, waiting, fence, wake = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local clock = call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)
local WEEK = 604800000

local holders, modes = {}, {r = 0, w = 0}

local function load_holders()
  local all = call('HGETALL', lock)
  for i = 1, #all, 2 do
    local mode, token, ends = string.match(all[i + 1], '^(%a) (%d+) (%d+)$')
    if tonumber(ends) > now then
      holders[all[i]] = {mode = mode, token = token, ends = tonumber(ends)}
      modes[mode] = modes[mode] + 1
    else
      call('HDEL', lock, all[i])
    end
  end
end

local function drop_holder(owner)
  modes[holders[owner].mode] = modes[holders[owner].mode] - 1
  holders[owner] = nil
  call('HDEL', lock, owner)
end

-- A key with a deadline is kept at least until then.
local function keep(key, ends)
  if call('PTTL', key) < ends - now then call('PEXPIREAT', key, ends) end
end

local function hold(owner, mode, token, lease)
  local ends = now + lease
  call('HSET', lock, owner, mode .. ' ' .. token .. ' ' .. string.format('%.0f', ends))
  keep(lock, ends)
  return ends
end

-- The greater of the counter's next number and the time: tokens grow even if the counter is lost or falls back.
local function next_token()
  local token = string.format('%.0f', math.max(tonumber(call('GET', fence) or 0) + 1, micros))
  call('SET', fence, token, 'PX', WEEK)
  return token
end

local function grant(owner, mode, lease)
  local token = next_token()
  local ends = hold(owner, mode, token, lease)
  holders[owner] = {mode = mode, token = token, ends = ends}
  modes[mode] = modes[mode] + 1
  return holders[owner]
end

local function is_free_for(mode)
  return modes.w == 0 and (mode == 'r' or modes.r == 0)
end

local function leave_queue(owner)
  call('ZREM', queue, owner)
  call('HDEL', waiting, owner)
end

local function waiter(owner)
  local mode, alive, lease, key = string.match(call('HGET', waiting, owner) or '', '^(%a) (%d+) (%d+) (.+)$')
  return mode, tonumber(alive), tonumber(lease), key
end

-- Hand the lock to those whose turn it is, each woken by itself; waiters that are not alive are passed over.
local function promote()
  while true do
    local owner = call('ZRANGE', queue, '0', '0')[1]
    if not owner then return end
    local mode, alive, lease, key = waiter(owner)
    if mode and alive > now then
      if not is_free_for(mode) then return end
      local granted = grant(owner, mode, lease)
      call('LPUSH', key, granted.token .. ' ' .. string.format('%.0f', granted.ends))
      call('PEXPIREAT', key, granted.ends)
    end
    leave_queue(owner)
  end
end

load_holders()
