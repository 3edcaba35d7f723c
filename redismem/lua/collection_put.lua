-- Store documents of one scope.
-- KEYS, ARGV: lib/collection.lua; then for each document: id, document, ttl (0: none, -1: as it is), rank ("": replaces
-- whatever is there), uses that its importance is worth, the document that must be there ("": any or none)
-- Replies {"OK", {"1" new, "2" replaced, "0" not replaced: another is there, or one with a greater rank ...}};
-- {"AGAIN"} with the same outcomes, joined, if it was done before.
--@include collection
--@include once

local function put(id, document, ttl, rank, uses, expected)
  local there = fields_ttl(docs, dl, now, id)
  if expected ~= '' and call('HGET', docs, id) ~= expected then return '0' end
  if ttl < 0 then ttl = there or 0 end
  if there and rank ~= '' and (call('HGET', meta, 'rank:' .. id) or '') >= rank then return '0' end
  fields_put(docs, dl, now, ttl, {id, document})
  if ttl > 0 then call('HSET', meta, 'timed', '1') end
  if rank ~= '' then call('HSET', meta, 'rank:' .. id, rank) end
  if not there then note_use(id, uses) end
  note('put', id)
  return there and '2' or '1'
end

local function apply()
  fields_reap(docs, dl, now)
  local outcomes = {}
  for i = 7, #ARGV, 6 do
    local ttl, uses = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 4])
    outcomes[#outcomes + 1] = put(ARGV[i], ARGV[i + 1], ttl, ARGV[i + 3], uses, ARGV[i + 5])
  end
  make_room()
  fields_written(docs, dl, nil)
  log_changes()
  return {'OK', outcomes}, table.concat(outcomes)
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
