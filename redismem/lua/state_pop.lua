-- Pop from the stack of a state.
-- KEYS, ARGV: lib/state.lua
-- Replies {"OK", the value}, or {"AGAIN", the same}; {"EMPTY"}, and nothing was changed.
--@include state
--@include once

local function apply()
  local top = depth()
  local field = 'context:' .. whole(top)
  local value = call('HGET', state, field)
  if not value then return {'EMPTY'} end
  call('HDEL', state, field)
  call('HSET', state, 'depth', whole(top - 1))
  note_activity()
  return {'OK', value}, value
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
