-- Take a lock, or a place in its queue. Calling again with the same owner changes nothing but renews lease and place.
-- KEYS: lib/lock.lua
-- ARGV[1] owner; ARGV[2] mode; ARGV[3] lease; ARGV[4] "1" to wait in the queue if others hold it, "0" not to
-- Replies {"HELD", token, lease left}, {"BUSY"}, or {"WAIT", in how many milliseconds to call again if not woken}.
--@include lock

local owner, mode, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function held()
  call('DEL', wake)
  local holder = holders[owner]
  return {'HELD', holder.token, holder.ends - now}
end

promote()
if holders[owner] then
  holders[owner].ends = hold(owner, holders[owner].mode, holders[owner].token, lease)
  return held()
end
local place = call('ZRANK', queue, owner)
if not place and is_free_for(mode) and call('ZCARD', queue) == 0 then
  grant(owner, mode, lease)
  return held()
end
if ARGV[4] ~= '1' then return {'BUSY'} end

if not place then
  local last = call('ZREVRANGE', queue, '0', '0', 'WITHSCORES')[2]
  call('ZADD', queue, tonumber(last or 0) + 1, owner)
  place = call('ZRANK', queue, owner)
end
call('HSET', waiting, owner, mode .. ' ' .. string.format('%.0f', now + lease) .. ' ' .. lease .. ' ' .. wake)
keep(queue, now + lease)
keep(waiting, now + lease)

-- The first in the queue looks again when the first lease ends, the others a little later, one after the other.
local first_end = now + lease
for _, holder in pairs(holders) do first_end = math.min(first_end, holder.ends) end
return {'WAIT', math.min(first_end - now + 1 + place * 20, math.max(1, math.floor(lease / 3)))}
