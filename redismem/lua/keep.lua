-- Read fields of one namespace, or of any other hash of values, and for how long they live: for L1, which may keep
-- them for no longer.
-- KEYS[1] not used; KEYS[2] fields; KEYS[3] deadlines
-- ARGV[1] ... fields, on servers where deadlines are kept beside them; none for all of them
-- Replies {PTTL of the fields' key, values, milliseconds left}. Values are those of the fields, nil where there is
-- none, or {field, value, ...} of all. Milliseconds are of each of these fields, -1 without end; instead of them nil if
-- there are too many fields to ask.

local call = redis.call
local ns, dl = KEYS[2], KEYS[3]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

local found, left = {}, {}
for i, field in ipairs(ARGV) do
  local deadline = call('ZSCORE', dl, field)
  left[i] = deadline and math.max(0, deadline - now) or -1
  found[i] = left[i] ~= 0 and call('HGET', ns, field)
end

if #ARGV == 0 then
  if call('HLEN', ns) > 10000 then return {-1, call('HGETALL', ns), false} end
  local rest, ends = {}, fields_deadlines(ns, dl, now)
  for i = 1, #ends, 2 do rest[ends[i]] = math.max(0, ends[i + 1] - now) end
  local all = call('HGETALL', ns)
  for i = 1, #all, 2 do
    if rest[all[i]] ~= 0 then
      found[#found + 1] = all[i]
      found[#found + 1] = all[i + 1]
      left[#left + 1] = rest[all[i]] or -1
    end
  end
end
return {call('PTTL', ns), found, left}
