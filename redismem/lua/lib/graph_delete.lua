-- What deletes from a graph have in common: nothing is left of what is deleted.
--@include graph

-- Forget what an entity or a relationship is and has. Returns what `properties` had of it.
local function forget(field)
  local head = call('HGET', properties, field)
  for name in string.gmatch(head or '', ' (%S+)') do call('HDEL', properties, field .. ' ' .. name) end
  call('HDEL', properties, field)
  return head
end

-- Forget a relationship, by its member of `out`. Returns 1 if there was one.
local function sever(member)
  call('ZREM', into, (flipped(member)))
  forget(member)
  return call('ZREM', out, member)
end
