-- Save fields of one namespace, all with one TTL.
-- KEYS, ARGV: lib/write.lua; then ttl, 0 none, -1 each field keeps its own; then field, value, ...
-- Replies {"OK", {began, meta's life, {namespaces left behind ...}}}, {"OWNER"}, {"STALE"}, {"NAMESPACES"} or
-- {"FIELDS"}.
--@include write

local ttl = tonumber(ARGV[first])
local keep = ttl < 0
local lives, adding = {}, 0
if keep or tonumber(ARGV[12]) > 0 then
  for i = first + 1, #ARGV, 2 do
    lives[ARGV[i]] = fields_ttl(ns, dl, now, ARGV[i])
    if not lives[ARGV[i]] then adding = adding + 1 end
  end
end
local refused = refusal(adding)
if refused then return refused end

-- unpack takes a few thousand items at most
for from = first + 1, #ARGV, 4000 do
  fields_put(ns, dl, now, math.max(ttl, 0), {unpack(ARGV, from, math.min(from + 3999, #ARGV))})
end
if keep then
  ttl = adding > 0 and 0 or 1
  for field, left in pairs(lives) do
    if left > 0 then
      fields_set_ttl(ns, dl, now, field, left)
    else
      ttl = 0
    end
  end
end
return {'OK', settle(ttl)}
