-- Read the relationships of an entity, and the entities at their other ends.
-- KEYS[1] ... KEYS[4] the graph: lib/graph.lua
-- ARGV[1] id   ARGV[2] how many at most, -1: all   ARGV[3] "out", "in" or "both"   ARGV[4] ... types; none: all
-- Replies, for each, {"<source> <type> <target>", what the relationship has, id of the other end, what that has}; what
-- one has is {what "properties" has of it or nil, the value of each property ...}.
--@include graph

local id, limit, direction = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local beginnings = {}
for i = 4, #ARGV do beginnings[i - 3] = id .. ' ' .. ARGV[i] end
if #beginnings == 0 then beginnings[1] = id end

local found = {}

local function look(set)
  for _, words in ipairs(beginnings) do
    -- one more, for a relationship to itself that was met on its way out
    for _, member in ipairs(beginning(set, words, limit < 0 and -1 or limit - #found + 1)) do
      if #found == limit then return end
      local other_way, other = flipped(member)
      local met = set == into and direction == 'both' and other == id
      local relationship = set == out and member or other_way
      if not met then found[#found + 1] = {relationship, described(relationship), other, described(other)} end
    end
  end
end

if direction ~= 'in' then look(out) end
if direction ~= 'out' then look(into) end
return found
