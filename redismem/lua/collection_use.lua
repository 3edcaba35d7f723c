-- Note that documents were used; those that are not there are passed over.
-- KEYS, ARGV: lib/collection.lua; then for each: id, how often, "1" to count them as uses that somebody reported, how
-- many of these were successes
-- Replies {"OK", how many are there}, or {"AGAIN", the same}.
--@include collection
--@include once

local function apply()
  reap()
  local known = 0
  for i = 8, #ARGV, 4 do
    local id, uses = ARGV[i], tonumber(ARGV[i + 1])
    if fields_ttl(docs, dl, now, id) then
      known = known + 1
      note_use(id, uses)
      if ARGV[i + 2] == '1' then
        call('HINCRBY', meta, 'uses:' .. id, uses)
        call('HINCRBY', meta, 'successes:' .. id, ARGV[i + 3])
        note('put', id)
      end
    end
  end
  written()
  return {'OK', known}, known
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
