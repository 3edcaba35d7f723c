-- Forget every document of one scope.
-- KEYS, ARGV: lib/collection.lua
-- Replies {"OK", how many there were}, or {"AGAIN", the same}.
--@include collection
--@include once

local function apply()
  reap()
  local count = call('HLEN', docs)
  call('DEL', docs, dl, log, meta, use, vectors, vdl)
  return {'OK', count}, count
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
