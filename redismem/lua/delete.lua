-- Delete one field; the namespace is forgotten with its last field.
-- KEYS, ARGV: lib/write.lua; then field.
-- Replies {"OK", 1 if there was one, else 0, {namespaces left behind ...}}, {"AGAIN", as the first time},
-- {"OWNER"} or {"STALE"}.
--@include write
--@include once

local function apply()
  local not_allowed = forbidden(head[2])
  if not_allowed then return not_allowed end
  local deleted = fields_drop(ns, dl, ARGV[first])
  if head[5] and call('EXISTS', ns) == 0 then call('HDEL', meta, name) end
  if not head[1] then return {'OK', deleted, {}}, deleted end
  if call('EXISTS', ns) == 1 then fields_written(ns, dl, tonumber(head[4])) end
  note_fence()
  note_activity()
  return {'OK', deleted, refresh() and undeclared(14, last) or {}}, deleted
end

return once(ops, ARGV[2], ARGV[3], ARGV[4], apply)
