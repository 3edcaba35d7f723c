-- Give the whole session another time to live.
-- KEYS: lib/guard.lua, every namespace of the session
-- ARGV: lib/guard.lua; then ttl, 0 for none; "ns:<namespace>" of each pair of keys
-- Replies {"OK"}, {"MISSING"}, {"OWNER"}, {"STALE"}, or, changing nothing, {"MORE", {namespaces not passed ...}}.
--@include guard

local head = call('HMGET', meta, 'created_at', 'user_id')
if not head[1] then return {'MISSING'} end
local not_allowed = forbidden(head[2])
if not_allowed then return not_allowed end
local more = undeclared(8, #ARGV)
if #more > 0 then return {'MORE', more} end

local ttl = tonumber(ARGV[7])
call('HSET', meta, 'last_active', now)
note_fence()
set_deadline(ttl > 0 and now + ttl)
return {'OK'}
