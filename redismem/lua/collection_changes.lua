-- What has changed in a collection since a reader last looked.
-- KEYS[1] documents; KEYS[2] their deadlines; KEYS[3] log; KEYS[4] meta; KEYS[5] embeddings: lib/collection.lua
-- ARGV[1] number of the latest change that the reader knows; ARGV[2] how many documents it takes at once, about;
-- ARGV[3] the reader's embedder, or ""; ARGV[4] how many documents the reader has
-- Replies {"OK", number of the change up to which this goes, "1" if there are more,
-- {id, document or nil, milliseconds left or -1, uses, successes, embedding or nil} ...}; {"RELOAD"} if the log does not
-- reach back that far, or the server has evicted what it tells of.

local call = redis.call
local docs, dl, log, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

local known, most = ARGV[1], tonumber(ARGV[2])
local latest = call('HGET', meta, 'change') or '0'
if ARGV[4] ~= '0' and call('EXISTS', docs) == 0 and call('HGET', meta, 'empty') ~= latest then return {'RELOAD'} end
if latest == known then return {'OK', latest, '0'} end

local ids, seen, upto, from = {}, {}, known, string.format('%.0f', known + 1)
local function take(entry)
  local number = string.match(entry[1], '^%d+')
  if #ids >= most and number ~= upto then return false end
  for i = 1, #entry[2], 2 do
    local how, id = entry[2][i], entry[2][i + 1]
    if how == 'after' then
      if id ~= upto then return nil end
    elseif not seen[id] then
      seen[id] = true
      ids[#ids + 1] = id
    end
  end
  upto, from = number, '(' .. entry[1]
  return true
end

local going = true
while going do
  local entries = call('XRANGE', log, from, '+', 'COUNT', '100')
  for _, entry in ipairs(entries) do
    going = take(entry)
    if going == nil then return {'RELOAD'} end
    if not going then break end
  end
  going = going and #entries == 100
end
if upto == known then return {'RELOAD'} end

local comparable = ARGV[3] ~= '' and call('HGET', meta, 'embedder') == ARGV[3]
local reply = {'OK', upto, upto ~= latest and '1' or '0'}
for i, id in ipairs(ids) do
  local left = fields_ttl(docs, dl, now, id)
  if left and left >= 0 then
    local counts = call('HMGET', meta, 'uses:' .. id, 'successes:' .. id)
    local vector = comparable and call('HGET', KEYS[5], id)
    left = left == 0 and -1 or left
    reply[i + 3] = {id, call('HGET', docs, id), left, counts[1] or '0', counts[2] or '0', vector}
  else
    reply[i + 3] = {id, false, -1, '0', '0', false}
  end
end
return reply
