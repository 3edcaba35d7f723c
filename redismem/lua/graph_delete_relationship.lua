-- Delete a relationship.
-- KEYS[1] ... KEYS[4] the graph: lib/graph.lua; KEYS[5] remembered operations: lib/once.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] "<source> <type> <target>"
-- Replies {"OK", "1" if there was one}; {"AGAIN", the same} if it was done before.
--@include graph_delete

local clock = call('TIME')

--@include once

local function apply()
  local done = tostring(sever(ARGV[4]))
  return {'OK', done}, done
end

return once(KEYS[5], ARGV[1], ARGV[2], ARGV[3], apply)
