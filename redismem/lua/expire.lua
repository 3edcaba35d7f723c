-- Give one field another TTL.
-- KEYS, ARGV: lib/write.lua; then ttl, 0 for none; field.
-- Replies {"OK", {as save.lua}}, {"MISSING"}, or {"OWNER"}.
--@include write

local ttl, field = tonumber(ARGV[first]), ARGV[first + 1]
if foreign() then return {'OWNER'} end
if not fields_ttl(ns, dl, now, field) then return {'MISSING'} end
fields_set_ttl(ns, dl, now, field, ttl)
return {'OK', settle(ttl)}
