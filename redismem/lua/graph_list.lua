-- Read entities, or relationships, in the order of their sorted set.
-- KEYS[1] ... KEYS[4] the graph: lib/graph.lua
-- ARGV[1] "entities" or "relationships"   ARGV[2], ARGV[3] from where to where, as ZRANGE BYLEX takes it
-- ARGV[4] how many at most
-- Replies, for each, {member, {what "properties" has of it or nil, the value of each property ...}}.
--@include graph

local set, last_words = out, '.+'
if ARGV[1] == 'entities' then set, last_words = entities, '%S+$' end

local found = {}
for i, member in ipairs(call('ZRANGE', set, ARGV[2], ARGV[3], 'BYLEX', 'LIMIT', '0', ARGV[4])) do
  found[i] = {member, described(string.match(member, last_words))}
end
return found
