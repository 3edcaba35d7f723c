-- Which namespaces of a session hold anything; those that hold nothing any more are forgotten.
-- KEYS: lib/session.lua, every namespace of the session; ARGV[1] ... "ns:<namespace>" of each pair of keys
-- Replies the names that hold something.
--@include session

local living = {}
for i, name in ipairs(ARGV) do
  local ns, dl = KEYS[2 * i], KEYS[2 * i + 1]
  fields_reap(ns, dl, now)
  if fields_any(ns, dl, now) then
    living[#living + 1] = name
  else
    call('UNLINK', ns, dl)
    call('HDEL', meta, name)
  end
end
return living
