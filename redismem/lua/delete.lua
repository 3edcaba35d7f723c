-- Delete one field; the namespace is forgotten with its last field.
-- KEYS, ARGV: lib/write.lua; then field.
-- Replies {"OK", 1 if there was one, else 0, {namespaces left behind ...}}, or {"OWNER"}.
--@include write

if foreign() then return {'OWNER'} end
local deleted = fields_drop(ns, dl, ARGV[first])
if head[5] and call('EXISTS', ns) == 0 then call('HDEL', meta, name) end
if not head[1] then return {'OK', deleted, {}} end
if call('EXISTS', ns) == 1 then fields_written(ns, dl, tonumber(head[4])) end
note_activity()
return {'OK', deleted, refresh() and undeclared(9, last) or {}}
