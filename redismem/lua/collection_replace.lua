-- Put documents of one scope in the place of others, unless somebody has changed one of those: all of it, or nothing.
-- KEYS, ARGV: lib/collection.lua; ARGV[8] how many go; their ids, each followed by the document that must be there; then
-- those that come, as collection_put.lua takes them
-- Replies {"OK", "1" done or "0" not}, or {"AGAIN", the same}.
--@include collection_put
--@include once

local last = 8 + 2 * ARGV[8]

local function apply()
  reap()
  for i = 9, last, 2 do
    if call('HGET', docs, ARGV[i]) ~= ARGV[i + 1] then return {'OK', '0'}, '0' end
  end
  for i = 9, last, 2 do drop(ARGV[i]) end
  put_all(last + 1)
  written()
  return {'OK', '1'}, '1'
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
