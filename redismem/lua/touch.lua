-- Give the whole session another time to live.
-- KEYS: lib/session.lua, every namespace of the session
-- ARGV[1] user_id, "" for nobody; ARGV[2] ttl, 0 for none; ARGV[3] ... "ns:<namespace>" of each pair of keys
-- Replies {"OK"}, {"MISSING"}, {"OWNER"}, or, changing nothing, {"MORE", {namespaces not passed ...}}.
--@include session

local head = call('HMGET', meta, 'created_at', 'user_id')
if not head[1] then return {'MISSING'} end
if ARGV[1] ~= '' and head[2] and head[2] ~= ARGV[1] then return {'OWNER'} end
local more = undeclared(3, #ARGV)
if #more > 0 then return {'MORE', more} end

local ttl = tonumber(ARGV[2])
call('HSET', meta, 'last_active', now)
set_deadline(ttl > 0 and now + ttl)
return {'OK'}
