-- Forget the whole session.
-- KEYS: lib/session.lua, every namespace of the session
-- ARGV[1] user_id, "" for nobody; ARGV[2] ... "ns:<namespace>" of each pair of keys
-- Replies {"OK", values forgotten}, {"OWNER"}, or, changing nothing, {"MORE", {namespaces not passed ...}}.
--@include session

local owner = call('HGET', meta, 'user_id')
if ARGV[1] ~= '' and owner and owner ~= ARGV[1] then return {'OWNER'} end
local more = undeclared(2, #ARGV)
if #more > 0 then return {'MORE', more} end

local values = 0
for i = 2, #KEYS, 2 do
  fields_reap(KEYS[i], KEYS[i + 1], now)
  values = values + fields_count(KEYS[i], KEYS[i + 1], now, 0)
end
for _, key in ipairs(KEYS) do call('UNLINK', key) end
return {'OK', values}
