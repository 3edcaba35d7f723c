-- Add to an integer field; one that is missing counts as 0.
-- KEYS, ARGV: lib/write.lua; then ttl, 0 keeps the field's own; field; by.
-- Replies {"OK", {as save.lua}, new value}, {"OVERFLOW"}, or a refusal as save.lua.
--@include write

local ttl, field = tonumber(ARGV[first]), ARGV[first + 1]
local left = fields_ttl(ns, dl, now, field)
local refused = refusal(left and 0 or 1)
if refused then return refused end

local sum = redis.pcall('HINCRBY', ns, field, ARGV[first + 2])
if type(sum) == 'table' then
  -- an integer all the same: it, or the sum, has more than 64 bits
  local long = string.find(call('HGET', ns, field) or '', '^%-?%d+$')
  return long and {'OVERFLOW'} or sum
end
if ttl > 0 then fields_set_ttl(ns, dl, now, field, ttl) end
local life = ttl > 0 and ttl or left or 0
-- read back: HINCRBY's own reply would pass through a Lua number, which is exact up to 2^53 only
return {'OK', settle(life), call('HGET', ns, field)}
