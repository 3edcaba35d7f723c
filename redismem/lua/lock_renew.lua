-- Extend the lease of a lock that is held.
-- KEYS: lib/lock.lua
-- ARGV[1] owner; ARGV[2] lease
-- Replies {"OK"}, or {"LOST"} when its lease had ended.
--@include lock

local holder = holders[ARGV[1]]
if holder then
  hold(ARGV[1], holder.mode, holder.token, tonumber(ARGV[2]))
  return {'OK'}
end
promote()
return {'LOST'}
