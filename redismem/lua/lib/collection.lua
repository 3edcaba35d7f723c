-- A collection: documents of one scope, a log of what changed, and what is known of how they are used.
--
-- KEYS[1] remembered operations: lib/once.lua
-- KEYS[2] documents: hash, id -> document, which is opaque; KEYS[3] their deadlines (a sorted set, tier "deadlines" only)
-- KEYS[4] log: stream; entry `<change>-0` has {"after", the change before} and {"put", id} or {"drop", id} for each
--         document; if there are many, the entries `<change>-1` ... go on
-- KEYS[5] meta: hash; `change` is the number of the latest change, `empty` that of one which left nothing, `timed` is
--         there if a document ever had a TTL, `embedder` names what made the embeddings, `rank:<id>` is that of a
--         document which only a greater one may replace, `uses:<id>` and `successes:<id>` are what was reported
-- KEYS[6] use: sorted set, id -> when it was last used, in milliseconds, and later the more often that was
-- KEYS[7] embeddings: hash, id -> float32 numbers, of documents that have one, all made by one embedder; KEYS[8] their
--         deadlines, those of their documents
-- If every document that the collection ever had has an end, so have log, meta and use: a little after the last of them.
-- Meta's says which it is. Once a document has none, they have none any more.
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] how many documents there may be, 0: any   ARGV[5] how many changes the log keeps, about
-- ARGV[6] in how many milliseconds a use comes to count for 1/e of a new one   ARGV[7] the writer's embedder, or ""

local call = redis.call
local docs, dl, log, meta, use, vectors, vdl = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

local MARGIN = 50  -- milliseconds

local left = call('PTTL', meta)  -- -1: for ever; -2: the collection begins, or the server has evicted meta
local was_there = call('EXISTS', docs) == 1
if left == -2 and was_there then was_there = fields_any(docs, dl, now) end  -- some are gone, but not yet reaped
local is_whole = left < 0 or call('EXISTS', log, use) == 2
local changed, fresh, longest, is_lasting = {}, {}, 0, false

local function note(how, id)
  changed[#changed + 1] = how
  changed[#changed + 1] = id
end

-- A document was given this TTL: milliseconds, or 0 for none.
local function note_ttl(ttl)
  longest = math.max(longest, ttl)
  is_lasting = is_lasting or ttl == 0
end

-- See to it that log, meta and use live as long as any document. Their end is a good deal later than need be, so that it
-- is not moved at each write.
local function outlive()
  if left == -1 or left == -2 and #changed == 0 then return end
  if is_lasting or left == -2 and was_there then
    for _, key in ipairs({log, meta, use}) do call('PERSIST', key) end
  elseif left < longest + MARGIN or not is_whole then
    if left < longest + MARGIN then left = longest + math.ceil(longest / 20) + 2 * MARGIN end
    for _, key in ipairs({log, meta, use}) do call('PEXPIREAT', key, string.format('%.0f', now + left)) end
  end
end

-- Write down what changed, as one change. It is after no other if there was nothing, and no change is known to have left
-- nothing: who still has documents that the server has evicted must read anew. Its number is greater than any before,
-- also of a collection that was forgotten: it is at least the time, in microseconds.
local function log_changes()
  if #changed == 0 then return end
  local last = call('HGET', meta, 'change') or '0'
  if last == '0' and was_there then call('HSET', meta, 'timed', '1') end  -- meta was evicted: nobody knows
  if last == '0' then left = -2 end  -- all that it has is the name of an embedder
  local number = string.format('%.0f', math.max(last + 1, clock[1] * 1000000 + clock[2]))
  local is_known = was_there or call('HGET', meta, 'empty') == last
  call('HSET', meta, 'change', number)
  if call('EXISTS', docs) == 0 then call('HSET', meta, 'empty', number) end
  for from = 1, #changed, 2000 do
    local part = {unpack(changed, from, math.min(from + 1999, #changed))}
    if from == 1 then
      part[#part + 1] = 'after'
      part[#part + 1] = is_known and last or '0'
    end
    call('XADD', log, 'MAXLEN', '~', ARGV[5], string.format('%s-%d', number, (from - 1) / 2000), unpack(part))
  end
end

local span = tonumber(ARGV[6])

-- So many uses, one after the other, are like one that came later: each e-fold by one span.
local function note_use(id, uses)
  local before = tonumber(call('ZSCORE', use, id))
  local at = now + span * math.log(uses)
  if before then
    local later = math.max(before, at)
    at = later + span * math.log(1 + math.exp(-math.abs(before - at) / span))
  end
  call('ZADD', use, string.format('%.0f', at), id)
end

local function drop(id)
  call('ZREM', use, id)
  fields_drop(vectors, vdl, id)
  call('HDEL', meta, 'rank:' .. id, 'uses:' .. id, 'successes:' .. id)
  if fields_drop(docs, dl, id) == 0 then return false end
  note('drop', id)
  return true
end

-- If there are too many, the least used go, before those that this call has stored; what was noted of those that have
-- expired goes first.
local function make_room()
  local most = tonumber(ARGV[4])
  local over = most > 0 and call('HLEN', docs) - most or 0
  if over <= 0 then return end
  local spared = {}
  for _, id in ipairs(call('ZRANGE', use, '0', over + #changed / 2)) do
    if over > 0 and not fresh[id] then
      if drop(id) then over = over - 1 end
    else
      spared[#spared + 1] = id
    end
  end
  -- any, if the server has evicted what was noted
  for _, id in ipairs(over > 0 and #spared == 0 and call('HKEYS', docs) or spared) do
    if over > 0 and drop(id) then over = over - 1 end
  end
end

-- What has expired is not there.
local function reap()
  fields_reap(docs, dl, now)
  fields_restore(docs, dl, now, false)
  fields_reap(vectors, vdl, now)
  fields_restore(vectors, vdl, now, false)
end

local function written()
  fields_written(docs, dl, nil)
  fields_written(vectors, vdl, nil)
  log_changes()
  outlive()
end
