-- A part of the documents of one scope, with how long they live, all of one moment.
-- KEYS[1] documents; KEYS[2] their deadlines; KEYS[3] embeddings; KEYS[4] meta: lib/collection.lua
-- ARGV[1] cursor, as HSCAN takes it; ARGV[2] about how many documents; ARGV[3] "1" for embeddings as well; ARGV[4] "1"
-- for what was counted as well
-- Replies {next cursor, {id, document, milliseconds left or -1, embedding or nil, and, if asked for, uses, successes} ...}.

local call = redis.call
local docs, dl, vectors, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

local page = call('HSCAN', docs, ARGV[1], 'COUNT', ARGV[2])
local reply = {page[1]}
for i = 1, #page[2], 2 do
  local id = page[2][i]
  local left = fields_ttl(docs, dl, now, id)
  if left then
    local vector = ARGV[3] == '1' and call('HGET', vectors, id)
    local row = {id, page[2][i + 1], left == 0 and -1 or left, vector}
    if ARGV[4] == '1' then
      local counts = call('HMGET', meta, 'uses:' .. id, 'successes:' .. id)
      row[5], row[6] = counts[1] or '0', counts[2] or '0'
    end
    reply[#reply + 1] = row
  end
end
return reply
