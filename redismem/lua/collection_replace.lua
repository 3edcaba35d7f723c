-- Put documents of one scope in the place of others: all of it, or nothing.
-- KEYS, ARGV: lib/collection.lua; ARGV[8] how many go; their ids, each followed by the document that must be there; then
-- those that come, as collection_put.lua takes them. One that comes under the id of one that goes replaces it.
-- Replies {"OK", by how many there are fewer}; "CHANGED" in its place if somebody has changed one of those that go;
-- "TAKEN" if one without a rank would replace a document that stays; or {"AGAIN", the same}.
--@include collection_put
--@include once

local last = 8 + 2 * ARGV[8]

local function apply()
  reap()
  local goes, comes = {}, {}
  for i = 9, last, 2 do
    if call('HGET', docs, ARGV[i]) ~= ARGV[i + 1] then return {'OK', 'CHANGED'}, 'CHANGED' end
    goes[ARGV[i]] = true
  end
  for i = last + 1, #ARGV, 7 do
    comes[ARGV[i]] = true
    if ARGV[i + 3] == '' and not goes[ARGV[i]] and fields_ttl(docs, dl, now, ARGV[i]) then
      return {'OK', 'TAKEN'}, 'TAKEN'
    end
  end
  local before = call('HLEN', docs)
  for i = 9, last, 2 do
    if not comes[ARGV[i]] then drop(ARGV[i]) end
  end
  put_all(last + 1)
  local fewer = tostring(before - call('HLEN', docs))
  written()
  return {'OK', fewer}, fewer
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
