-- Give a lock back, or leave its queue, and hand the lock to whoever is next.
-- KEYS: lib/lock.lua
-- ARGV[1] owner
-- Replies {"OK"}, or {"LOST"} when the owner neither held it nor waited.
--@include lock

local owner = ARGV[1]
local known = holders[owner] or call('ZSCORE', queue, owner)
if holders[owner] then drop_holder(owner) end
leave_queue(owner)
call('DEL', wake)
promote()
return {known and 'OK' or 'LOST'}
