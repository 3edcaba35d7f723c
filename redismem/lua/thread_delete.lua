-- Delete a thread.
-- KEYS lib/thread.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- Replies {"OK", how many checkpoints there were}; {"AGAIN", the same} if it was done before.
--@include thread
--@include once

local function apply()
  local count = call('ZCARD', versions)
  call('UNLINK', versions, states)
  return {'OK', count}, whole(count)
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
