-- After a plain save found that the session had changed: register the namespace and see to every expiry.
-- KEYS, ARGV: lib/write.lua; then ttl of what was saved, 0 none.
-- Replies {"OK", {as save.lua}}, or {"MISSING"} when the namespace has ended too, and with it what was saved.
--@include write

if call('EXISTS', ns) == 0 then return {'MISSING'} end
fields_end_key(ns, dl, tonumber(head[4]))
return {'OK', settle(tonumber(ARGV[first]))}
