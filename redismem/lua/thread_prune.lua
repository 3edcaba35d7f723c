-- Drop the oldest checkpoints of a thread.
-- KEYS lib/thread.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] how many are kept
-- Replies {"OK", how many went}; {"AGAIN", the same} if it was done before.
--@include thread
--@include once

local function apply()
  local gone = keep_latest(tonumber(ARGV[4]))
  return {'OK', gone}, whole(gone)
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
