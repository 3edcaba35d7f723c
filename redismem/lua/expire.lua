-- Give one field another TTL.
-- KEYS, ARGV: lib/write.lua; then ttl, 0 for none; field.
-- Replies {"OK", {as save.lua}}, {"MISSING"}, {"OWNER"} or {"STALE"}.
--@include write

local ttl, field = tonumber(ARGV[first]), ARGV[first + 1]
local not_allowed = forbidden(head[2])
if not_allowed then return not_allowed end
if not fields_ttl(ns, dl, now, field) then return {'MISSING'} end
fields_set_ttl(ns, dl, now, field, ttl)
return {'OK', settle(ttl)}
