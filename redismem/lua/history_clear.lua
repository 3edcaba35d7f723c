-- Forget a conversation.
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2] turns: lib/history.lua; KEYS[3] lib/conversations.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] name of the conversation
-- Replies {"OK", how many turns there were}; {"AGAIN", the same} if it was done before.

local call = redis.call
local clock = call('TIME')

--@include once

local function apply()
  local count = call('XLEN', KEYS[2])
  call('UNLINK', KEYS[2])
  call('ZREM', KEYS[3], ARGV[4])
  return {'OK', count}, count
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
