-- Read documents of one scope by their ids.
-- KEYS[1] documents; KEYS[2] their deadlines; KEYS[3] meta: lib/collection.lua
-- ARGV ids
-- Replies, for each, {document or nil, milliseconds left or -1, uses, successes}.

local call = redis.call
local docs, dl, meta = KEYS[1], KEYS[2], KEYS[3]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

local reply = {}
for i, id in ipairs(ARGV) do
  local left = fields_ttl(docs, dl, now, id)
  local counts = call('HMGET', meta, 'uses:' .. id, 'successes:' .. id)
  local document = left and left >= 0 and call('HGET', docs, id)
  reply[i] = {document or false, left and left > 0 and left or -1, counts[1] or '0', counts[2] or '0'}
end
return reply
