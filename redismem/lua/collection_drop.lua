-- Forget documents of one scope.
-- KEYS, ARGV: lib/collection.lua; then their ids
-- Replies {"OK", how many there were}, or {"AGAIN", the same}.
--@include collection
--@include once

local function apply()
  reap()
  local gone = 0
  for i = 8, #ARGV do
    if drop(ARGV[i]) then gone = gone + 1 end
  end
  written()
  return {'OK', gone}, gone
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
