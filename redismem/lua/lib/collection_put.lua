-- Store one document, as the arguments of collection_put.lua say.
--@include collection

local embedder, is_timed = ARGV[7], call('HEXISTS', meta, 'timed') == 1

-- An embedding that does not belong to the document any more must not stay.
local function put_vector(id, ttl, vector, there)
  local held = vector ~= '' and call('HGET', meta, 'embedder')
  if vector ~= '' and not held then call('HSET', meta, 'embedder', embedder) end
  if vector ~= '' and (not held or held == embedder) then
    fields_put(vectors, vdl, now, ttl, {id, vector})
  elseif there then
    fields_drop(vectors, vdl, id)
  end
end

-- One that is told for longer lives longer, though another telling stays.
local function lengthen(id, left, ttl)
  if left == 0 or (ttl > 0 and ttl <= left) then return end
  fields_set_ttl(docs, dl, now, id, ttl)
  note_ttl(ttl)
  if call('HEXISTS', vectors, id) == 1 then fields_set_ttl(vectors, vdl, now, id, ttl) end
  note('put', id)
end

local first_uses = {}  -- together they take half the time

local function note_first_uses()
  for from = 1, #first_uses, 2000 do
    call('ZADD', use, unpack(first_uses, from, math.min(from + 1999, #first_uses)))
  end
end

local function put(id, document, ttl, rank, uses, expected, vector)
  local there = fields_ttl(docs, dl, now, id)
  if expected ~= '' and call('HGET', docs, id) ~= expected then return '0' end
  if ttl < 0 then ttl = there or 0 end
  if there and rank ~= '' and expected == '' and (call('HGET', meta, 'rank:' .. id) or '') >= rank then
    lengthen(id, there, ttl)
    return '0'
  end
  if not there and is_timed then drop(id) end  -- what was noted of one that has expired
  fields_put(docs, dl, now, ttl, {id, document})
  note_ttl(ttl)
  put_vector(id, ttl, vector, there)
  fresh[id] = true
  if ttl > 0 then call('HSET', meta, 'timed', '1') end
  if rank ~= '' then call('HSET', meta, 'rank:' .. id, rank) end
  if not there then
    first_uses[#first_uses + 1] = string.format('%.0f', now + span * math.log(uses))
    first_uses[#first_uses + 1] = id
  end
  note('put', id)
  return there and '2' or '1'
end

-- Documents that expire leave behind what was noted of them. A few, drawn at each write, are looked at, so that what is
-- left behind stays a fraction of what is there.
local function sweep()
  if not is_timed then return end
  for _, id in ipairs(call('ZRANDMEMBER', use, '3')) do
    if not fields_ttl(docs, dl, now, id) then drop(id) end
  end
end

-- Store what the arguments from `first` on say; the outcomes.
local function put_all(first)
  local outcomes = {}
  for i = first, #ARGV, 7 do
    local ttl, uses = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 4])
    outcomes[#outcomes + 1] = put(ARGV[i], ARGV[i + 1], ttl, ARGV[i + 3], uses, ARGV[i + 5], ARGV[i + 6])
  end
  note_first_uses()
  sweep()
  make_room()
  return outcomes
end
