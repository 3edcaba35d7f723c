-- Read an entity.
-- KEYS[1] ... KEYS[4] the graph: lib/graph.lua
-- ARGV[1] id
-- Replies {what "properties" has of it or nil, the value of each property ...}.
--@include graph

return described(ARGV[1])
