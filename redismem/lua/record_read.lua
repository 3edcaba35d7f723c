-- Read records of one user, where deadlines are kept beside fields.
-- KEYS[1], KEYS[2] ... each record's hash and its deadlines
-- Replies, for each record, {field, value, ...}.
--@include record

local found = {}
for n = 1, #KEYS, 2 do
  fields_reap(KEYS[n], KEYS[n + 1], now)
  found[#found + 1] = call('HGETALL', KEYS[n])
end
return found
