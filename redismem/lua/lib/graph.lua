-- A user's graph: entities, and relationships of one entity to another.
--
-- Ids, kinds, types and names of properties are percent-encoded words, and a space joins words: nothing can be taken
-- for something else. Values are opaque, and never decoded. Scores are 0, so members are sorted as text.
--
-- KEYS[1] entities: sorted set of "<kind> <id>"
-- KEYS[2] out: sorted set of "<source> <type> <target>"; KEYS[3] in: the same as "<target> <type> <source>"
-- KEYS[4] properties: hash; "<id>" -> "<kind> <property> ...", what the entity is and which properties it has;
--         "<source> <type> <target>" -> " <property> ..." if it has any; each of these, " <property>" -> value

local call = redis.call
local entities, out, into, properties = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

-- Members that begin with these words, `most` of them or, if that is -1, all.
local function beginning(set, words, most)
  return call('ZRANGE', set, '[' .. words .. ' ', '(' .. words .. '!', 'BYLEX', 'LIMIT', '0', most)
end

-- A relationship as the other sorted set has it, and its last word.
local function flipped(member)
  local first, kind, last = string.match(member, '^(%S+) (%S+) (%S+)$')
  return last .. ' ' .. kind .. ' ' .. first, last
end

-- What an entity or a relationship has: {what "properties" has of it or nil, the value of each property ...}.
local function described(field)
  local head = call('HGET', properties, field)
  local found = {head}
  for name in string.gmatch(head or '', ' (%S+)') do found[#found + 1] = call('HGET', properties, field .. ' ' .. name) end
  return found
end
