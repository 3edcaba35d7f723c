-- Add entities and relationships to a graph, and merge their properties: all or none.
--
-- KEYS[1] ... KEYS[4] the graph: lib/graph.lua; KEYS[5] remembered operations: lib/once.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] how many entities there are, then for each: id, kind, how many properties, and name and value of each
-- ... then for each relationship: source, type, target, how many properties, and name and value of each
-- Replies {"OK", "<entities that are new> <relationships that are new>"}; {"AGAIN", the same} if it was done before;
-- {"MISSING", id ...} if relationships have ends that are neither there nor among these entities: nothing was changed.
--@include graph

local clock = call('TIME')

--@include once

-- The entities or relationships from ARGV[at] on, each of so many words, `count` of them or as many as there are.
local function given(at, words, count)
  local all = {}
  while #all ~= count and at <= #ARGV do
    local one = {unpack(ARGV, at, at + words - 1)}
    one.from, one.to = at + words + 1, at + words + ARGV[at + words] * 2
    at = one.to + 1
    all[#all + 1] = one
  end
  return all, at
end

-- Set the properties of one. Returns what `properties` had of it.
local function describe(field, label, one)
  local head = call('HGET', properties, field)
  local now = label .. string.match(head or '', '^%S*(.*)$')
  for i = one.from, one.to, 2 do
    if call('HSET', properties, field .. ' ' .. ARGV[i], ARGV[i + 1]) == 1 then now = now .. ' ' .. ARGV[i] end
  end
  if now ~= '' then call('HSET', properties, field, now) end
  return head
end

local new_entities, at = given(5, 2, tonumber(ARGV[4]))
local new_relationships = given(at, 3)

-- The ends of relationships that there are not, each once.
local function missing()
  local there, ids = {}, {}
  for _, one in ipairs(new_entities) do there[one[1]] = true end
  for _, one in ipairs(new_relationships) do
    for _, id in ipairs({one[1], one[3]}) do
      if not there[id] and call('HEXISTS', properties, id) == 0 then ids[#ids + 1] = id end
      there[id] = true
    end
  end
  return ids
end

local function add_entity(id, kind, one)
  local head = describe(id, kind, one)
  local before = head and string.match(head, '^%S+')
  if before ~= kind then
    if before then call('ZREM', entities, before .. ' ' .. id) end
    call('ZADD', entities, 0, kind .. ' ' .. id)
  end
  return before and 0 or 1
end

local function add_relationship(member, one)
  describe(member, '', one)
  call('ZADD', into, 0, (flipped(member)))
  return call('ZADD', out, 0, member)
end

local function apply()
  local ids = missing()
  if #ids > 0 then return {'MISSING', unpack(ids, 1, math.min(#ids, 1000))} end
  local added, related = 0, 0
  for _, one in ipairs(new_entities) do added = added + add_entity(one[1], one[2], one) end
  for _, one in ipairs(new_relationships) do related = related + add_relationship(table.concat(one, ' '), one) end
  local done = added .. ' ' .. related
  return {'OK', done}, done
end

return once(KEYS[5], ARGV[1], ARGV[2], ARGV[3], apply)
