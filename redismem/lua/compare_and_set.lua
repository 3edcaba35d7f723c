-- Save one field if its bytes are among those expected.
-- KEYS, ARGV: lib/write.lua; then ttl, 0 none, -1 the field keeps its own; field; value;
-- "1" if a missing field is expected too; every expected sequence of bytes.
-- Replies {"OK", {as save.lua}}, {"AGAIN"} when it did so before, {"DIFFERS", bytes or nil}, or a refusal as save.lua.
--@include write
--@include once

local function apply()
  local ttl, field, value = tonumber(ARGV[first]), ARGV[first + 1], ARGV[first + 2]
  local current = fields_get(ns, dl, now, field)
  local matches = not current and ARGV[first + 3] == '1'
  for i = first + 4, #ARGV do
    if current == ARGV[i] then matches = true end
  end
  local not_allowed = forbidden(head[2])
  if not_allowed then return not_allowed end
  if not matches then return {'DIFFERS', current} end
  local refused = refusal(current and 0 or 1)
  if refused then return refused end

  if ttl < 0 then ttl = current and fields_ttl(ns, dl, now, field) or 0 end
  fields_put(ns, dl, now, ttl, {field, value})
  return {'OK', settle(ttl)}, 'set'
end

return once(ops, ARGV[2], ARGV[3], ARGV[4], apply)
