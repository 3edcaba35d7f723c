-- Add to an integer field; one that is missing counts as 0.
-- KEYS, ARGV: lib/write.lua; then ttl, 0 keeps the field's own; field; by.
-- Replies {"OK", {as save.lua}, new value}, {"AGAIN", value as the first time}, {"OVERFLOW"}, or a refusal
-- as save.lua.
--@include write
--@include once

local ttl, field, by = tonumber(ARGV[first]), ARGV[first + 1], ARGV[first + 2]

local function apply()
  local adding = tonumber(ARGV[12]) > 0 and not fields_ttl(ns, dl, now, field) and 1 or 0
  local refused = refusal(adding)
  if refused then return refused end

  local sum = redis.pcall('HINCRBY', ns, field, by)
  if type(sum) == 'table' then
    -- an integer all the same: it, or the sum, has more than 64 bits
    local said = tostring(sum.err)
    local number = string.find(said, 'integer') or string.find(said, 'overflow')
    local long = number and string.find(call('HGET', ns, field) or '', '^%-?%d+$')
    return long and {'OVERFLOW'} or sum
  end
  local life = ttl
  if ttl > 0 then
    fields_set_ttl(ns, dl, now, field, ttl)
  elseif head[5] and sum ~= tonumber(by) then
    life = 1 -- the field was there before, as the sum tells, so meta outlives it already
  else
    life = fields_ttl(ns, dl, now, field)
  end
  local settled = settle(life)
  -- a Lua number is exact up to 2^53 only, and its text up to 10^14
  if math.abs(sum) >= 1e14 then sum = call('HGET', ns, field) end
  return {'OK', settled, sum}, sum
end

return once(ops, ARGV[2], ARGV[3], ARGV[4], apply)
