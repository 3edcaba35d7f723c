-- Make a thread of the checkpoints of another one.
-- KEYS lib/thread.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] ttl (0: none, -1: as it is)   ... then for each checkpoint: version, at, state
-- Replies {"OK", how many}; {"AGAIN", the same} if it was done before; {"CONFLICT"} if there is such a thread: nothing
-- was changed.
--@include thread
--@include once

local function apply()
  if latest_version() then return {'CONFLICT'} end
  local count = (#ARGV - 4) / 3
  for i = 5, #ARGV, 3 do add_checkpoint(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
  end_thread(tonumber(ARGV[4]))
  return {'OK', count}, whole(count)
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
