-- Put named values into one hash, all with one TTL.
-- KEYS[1] fields; KEYS[2] deadlines
-- ARGV[1] to ARGV[3] not used: the call may be repeated   ARGV[4] ttl, 0: none; then field, value, ...
-- Replies {"OK"}.

local call = redis.call
local key, dl = KEYS[1], KEYS[2]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

fields_reap(key, dl, now)
fields_restore(key, dl, now, nil)
-- unpack takes a few thousand items at most
for from = 5, #ARGV, 4000 do
  fields_put(key, dl, now, tonumber(ARGV[4]), {unpack(ARGV, from, math.min(from + 3999, #ARGV))})
end
fields_written(key, dl, nil)
return {'OK'}
