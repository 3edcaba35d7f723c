-- Forget documents of one scope.
-- KEYS, ARGV: lib/collection.lua; then their ids
-- Replies {"OK", how many there were}, or {"AGAIN", the same}.
--@include collection
--@include once

local function apply()
  fields_reap(docs, dl, now)
  local gone = 0
  for i = 7, #ARGV do
    if drop(ARGV[i]) then gone = gone + 1 end
  end
  fields_written(docs, dl, nil)
  log_changes()
  return {'OK', gone}, gone
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
