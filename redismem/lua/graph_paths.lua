-- Find the paths from one entity to another that pass none twice, the shortest first.
-- KEYS[1] ... KEYS[4] the graph: lib/graph.lua
-- ARGV[1] source   ARGV[2] target   ARGV[3] length of the longest   ARGV[4] how many at most
-- ARGV[5] how many relationships may be looked at   ARGV[6] "out", "in" or "both": how relationships are followed
-- ARGV[7] ... types; none: all
-- Replies {"OK", {"<source> <type> <target>" ...} ...}; {"EFFORT"} if more would have to be looked at.
--
-- For each length in turn, walks of this length leave the source. They keep to entities from which the target can be
-- reached in what is left of them: `distance` knows those that are within `radius` of the target, which grows by half
-- as fast, unless half of the effort is spent on it: then walks are longer before they are told that they go astray.
--@include graph

local source, target, longest, limit, direction = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[6]
local half = math.ceil(ARGV[5] / 2)
local left = {forth = half, back = half}
local sets = {forth = {}, back = {}}
if direction ~= 'in' then sets.forth[1], sets.back[1] = out, into end
if direction ~= 'out' then
  table.insert(sets.forth, into)
  table.insert(sets.back, out)
end

local endings = {}
for i = 7, #ARGV do endings[i - 6] = ' ' .. ARGV[i] end
if #endings == 0 then endings[1] = '' end

-- {{relationship, entity at its other end} ...}; one too many is looked at if no more may be.
local function look(id, way)
  local found = {}
  for _, set in ipairs(sets[way]) do
    for _, ending in ipairs(endings) do
      for _, member in ipairs(beginning(set, id .. ending, left[way] + 1)) do
        local other_way, other = flipped(member)
        found[#found + 1] = {set == out and member or other_way, other}
        left[way] = left[way] - 1
        if left[way] < 0 then return found end
      end
    end
  end
  return found
end

local distance, frontier, radius = {[target] = 0}, {target}, 0

local function grow()
  local further = {}
  for _, id in ipairs(frontier) do
    for _, near in ipairs(look(id, 'back')) do
      if not distance[near[2]] then
        distance[near[2]] = radius + 1
        further[#further + 1] = near[2]
      end
    end
    if left.back < 0 then return end
  end
  frontier, radius = further, radius + 1
end

local function may_reach(id, length)
  if distance[id] then return distance[id] <= length end
  return #frontier > 0 and length > radius
end

local found, steps, passed, known = {'OK'}, {}, {}, {}

local function is_over()
  return left.forth < 0 or #found > limit
end

local function walk(id, length)
  if id == target then
    if length == 0 then found[#found + 1] = {unpack(steps)} end
    return
  end
  known[id] = known[id] or look(id, 'forth')
  passed[id] = true
  for _, near in ipairs(known[id]) do
    if is_over() then break end
    left.forth = left.forth - 1
    if not passed[near[2]] and may_reach(near[2], length - 1) then
      steps[#steps + 1] = near[1]
      walk(near[2], length - 1)
      steps[#steps] = nil
    end
  end
  passed[id] = nil
end

if call('HEXISTS', properties, source) == 0 then return found end
for length = 0, longest do
  if radius < math.floor(length / 2) and #frontier > 0 and left.back >= 0 then grow() end
  if may_reach(source, length) then walk(source, length) end
  if is_over() or (#frontier == 0 and not distance[source]) then break end
end
return left.forth < 0 and #found <= limit and {'EFFORT'} or found
