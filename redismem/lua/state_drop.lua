-- Drop one field of a state; without a field, all of it.
-- KEYS, ARGV: lib/state.lua; then the field
-- Replies {"OK", 1 if there was one, else 0}, or {"AGAIN", the same}.
--@include state
--@include once

local function apply()
  local gone
  if #ARGV == 4 then
    gone = call('UNLINK', state)
  else
    gone = call('HDEL', state, ARGV[5])
    if gone == 1 then note_activity() end
  end
  return {'OK', gone}, gone
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
