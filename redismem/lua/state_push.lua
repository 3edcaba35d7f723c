-- Push onto the stack of a state.
-- KEYS, ARGV: lib/state.lua; then how deep it may be, the value
-- Replies {"OK", how deep it is}, or {"AGAIN", the same}; {"FULL"}, and nothing was changed.
--@include state
--@include once

local function apply()
  local top = depth() + 1
  if top > tonumber(ARGV[5]) then return {'FULL'} end
  call('HSET', state, 'depth', whole(top), 'context:' .. whole(top), ARGV[6])
  note_activity()
  return {'OK', top}, top
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
