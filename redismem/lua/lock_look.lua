-- Who holds a lock, and how many wait for it; changes nothing.
-- KEYS[1] lock, KEYS[2] waiting: lib/lock.lua
-- Replies {how many wait, owner, mode, token, milliseconds that are left of its lease ...}.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local found, waiting = {0}, redis.call('HGETALL', KEYS[2])
for i = 2, #waiting, 2 do
  local alive = tonumber(string.match(waiting[i], '^%a (%d+) '))
  if alive and alive > now then found[1] = found[1] + 1 end
end

local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  local mode, token, ends = string.match(held[i + 1], '^(%a) (%d+) (%d+)$')
  if mode and tonumber(ends) > now then
    for _, part in ipairs({held[i], mode, token, tonumber(ends) - now}) do found[#found + 1] = part end
  end
end
return found
