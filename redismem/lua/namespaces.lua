-- Which namespaces of a session hold anything; those that hold nothing any more are forgotten.
-- KEYS: lib/session.lua, every namespace of the session; ARGV[1] ... "ns:<namespace>" of each pair of keys
-- Replies the names that hold something. A user who may not write hears the same, and forgets nothing.
--@include session

local living = {}
for i, name in ipairs(ARGV) do
  local ns, dl = KEYS[2 * i], KEYS[2 * i + 1]
  pcall(fields_reap, ns, dl, now)
  if fields_any(ns, dl, now) then
    living[#living + 1] = name
  else
    redis.pcall('UNLINK', ns, dl)
    redis.pcall('HDEL', meta, name)
  end
end
return living
