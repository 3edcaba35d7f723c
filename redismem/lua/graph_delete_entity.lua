-- Delete an entity and every relationship that it is an end of.
-- KEYS[1] ... KEYS[4] the graph: lib/graph.lua; KEYS[5] remembered operations: lib/once.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] id
-- Replies {"OK", "1" if there was one}; {"AGAIN", the same} if it was done before.
--@include graph_delete

local clock = call('TIME')

--@include once

local function apply()
  local id = ARGV[4]
  for _, member in ipairs(beginning(out, id, -1)) do sever(member) end
  for _, member in ipairs(beginning(into, id, -1)) do sever((flipped(member))) end
  local head = forget(id)
  if head then call('ZREM', entities, string.match(head, '^%S+') .. ' ' .. id) end
  local done = head and '1' or '0'
  return {'OK', done}, done
end

return once(KEYS[5], ARGV[1], ARGV[2], ARGV[3], apply)
