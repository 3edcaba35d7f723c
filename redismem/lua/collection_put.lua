-- Store documents of one scope.
-- KEYS, ARGV: lib/collection.lua; then for each document: id, document, ttl (0: none, -1: as it is), rank ("": replaces
-- whatever is there), uses that its importance is worth, the document that must be there ("": any or none), embedding
-- ("": none)
-- Replies {"OK", {"1" new, "2" replaced, "0" not replaced: another is there, or one with a greater rank,
-- which lives as long as it was to, or as this one would have, if that is longer ...}};
-- {"AGAIN"} with the same outcomes, joined, if it was done before.
--@include collection_put
--@include once

local function apply()
  reap()
  local outcomes = put_all(8)
  written()
  return {'OK', outcomes}, table.concat(outcomes)
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
