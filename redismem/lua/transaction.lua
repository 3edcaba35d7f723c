-- Several writes of one partition as one: none of them if what was read has changed, or if one of them is refused.
-- A refusal ends the script, and whatever the writes before it did is undone: values, deadlines, everything.
-- KEYS the keys of each expectation (fields and deadlines, or meta) and of each write, one after the other
-- ARGV[1] tier; ARGV[2] how many expectations; of each: kind, how many keys, how many arguments, the arguments
--         then how many writes; of each: verb, how many keys, how many arguments, the arguments
-- Replies {"OK", {each write's reply ...}}, {"CHANGED"}, or {"REFUSED", which write (from 0), its reply or error}.

local raw = redis
local call = redis.call
local native = ARGV[1] ~= 'deadlines'

local function milliseconds()
  local clock = call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end
local now = milliseconds()

--@include fields

local next_key, next_argument = 1, 2

local function take(from, first, count)
  local taken = {}
  for i = 1, count do taken[i] = from[first + i - 1] end
  return taken
end

-- What comes next in ARGV: a kind, its keys, its arguments.
local function take_one()
  local kind, keys, arguments = unpack(ARGV, next_argument, next_argument + 2)
  local of_key, of_argument = next_key, next_argument + 3
  next_key, next_argument = next_key + keys, of_argument + arguments
  return kind, take(KEYS, of_key, tonumber(keys)), take(ARGV, of_argument, tonumber(arguments))
end

local function take_number()
  next_argument = next_argument + 1
  return tonumber(ARGV[next_argument - 1])
end

-- --- Would the server still answer as it did? ----------------------------------------------------------------------

local still = {}

local function same(found, was_there, value)
  if was_there == '0' then return not found end
  return found == value
end

-- Fields: name, 1 if it was there, value.
function still.values(keys, wanted)
  fields_reap(keys[1], keys[2], now)
  for i = 1, #wanted, 3 do
    if not same(fields_get(keys[1], keys[2], now, wanted[i]), wanted[i + 1], wanted[i + 2]) then return false end
  end
  return true
end

-- All fields: name, the millisecond at which it ends or 0, value. That time has taken some away is no change.
function still.all(keys, wanted)
  fields_reap(keys[1], keys[2], now)
  local values, ends = {}, {}
  for i = 1, #wanted, 3 do
    ends[wanted[i]], values[wanted[i]] = tonumber(wanted[i + 1]), wanted[i + 2]
  end
  local found = call('HGETALL', keys[1])
  for i = 1, #found, 2 do
    if values[found[i]] ~= found[i + 1] then return false end
    ends[found[i]] = nil
  end
  for _, deadline in pairs(ends) do
    if deadline == 0 or deadline > now then return false end
  end
  return true
end

-- When a field ends: name, the first and the last millisecond that it may be; -1: never; -2: there is none.
function still.ends(keys, wanted)
  fields_reap(keys[1], keys[2], now)
  local asked = milliseconds()
  local left, first, last = fields_ttl(keys[1], keys[2], asked, wanted[1]), tonumber(wanted[2]), tonumber(wanted[3])
  if not left or left == 0 then return first == (left and -1 or -2) end
  return asked + left <= last + 1 and milliseconds() + left >= first - 1
end

-- Fields of meta: name, 1 if it was there, value.
function still.meta(keys, wanted)
  for i = 1, #wanted, 3 do
    if not same(call('HGET', keys[1], wanted[i]), wanted[i + 1], wanted[i + 2]) then return false end
  end
  return true
end

-- The namespaces that meta registers, no others: name, 1 if it held something. Those that did not may be gone.
function still.registered(keys, wanted)
  local names = {}
  for i = 1, #wanted, 2 do names[wanted[i]] = wanted[i + 1] end
  for _, field in ipairs(call('HKEYS', keys[1])) do
    if string.sub(field, 1, 3) == 'ns:' and not names[field] then return false end
    names[field] = nil
  end
  for _, lived in pairs(names) do
    if lived == '1' then return false end
  end
  return true
end

-- --- Undoing -------------------------------------------------------------------------------------------------------

-- Of each command that changes something, where its fields are: the type of the key, the first one, how far apart.
local changes = {
  HSET = {'hash', 2, 2}, HDEL = {'hash', 2, 1}, HINCRBY = {'hash', 2, 2}, HSETEX = {'hash', 6, 2},
  HPEXPIRE = {'hash', 5, 1}, HPERSIST = {'hash', 4, 1}, ZADD = {'zset', 3, 2}, ZREM = {'zset', 2, 1},
  PEXPIRE = {}, PEXPIREAT = {}, PERSIST = {}
}
local looks = {
  GET = true, HGET = true, HMGET = true, HGETALL = true, HKEYS = true, HLEN = true, HEXISTS = true, HPTTL = true,
  PTTL = true, ZSCORE = true, ZCARD = true, ZCOUNT = true, ZRANGEBYSCORE = true, ZREVRANGE = true, ZRANGE = true,
  EXISTS = true,
  TIME = true
}
local touched, before = {}, {}

-- The millisecond at which a key ends; -1: never; -2: there is none.
local function ending(key)
  local at = raw.pcall('PEXPIRETIME', key)
  if type(at) == 'number' then return at end
  local asked, left -- Redis 6.2 only says how much is left, by a clock that runs on
  repeat
    asked = milliseconds()
    left = call('PTTL', key)
  until asked == milliseconds()
  return left < 0 and left or asked + left
end

local function remember_field(key, kind, field)
  local fields = before[key].fields
  if fields[field] then return end
  if kind == 'zset' then
    fields[field] = {score = call('ZSCORE', key, field)}
  else
    fields[field] = {value = call('HGET', key, field)}
    fields[field].left = native and fields[field].value and call('HPTTL', key, 'FIELDS', '1', field)[1]
  end
  fields[field].kind = kind
end

local function remember(command, key, ...)
  if not before[key] then
    before[key] = {ends = ending(key), fields = {}}
    touched[#touched + 1] = key
  end
  local kind, first, step = unpack(changes[command])
  local arguments = {key, ...}
  for i = first or 1, first and #arguments or 0, step or 1 do remember_field(key, kind, arguments[i]) end
end

local function restore_field(key, field, was)
  if was.kind == 'zset' then
    if was.score then call('ZADD', key, was.score, field) else call('ZREM', key, field) end
  elseif was.value then
    call('HSET', key, field, was.value)
    if was.left and was.left > 0 then call('HPEXPIRE', key, was.left, 'FIELDS', '1', field) end
  else
    call('HDEL', key, field)
  end
end

local function undo()
  for _, key in ipairs(touched) do
    for field, was in pairs(before[key].fields) do restore_field(key, field, was) end
    local ends = before[key].ends
    if ends >= 0 then call('PEXPIREAT', key, ends) elseif ends == -1 then call('PERSIST', key) end
  end
end

-- --- The writes ----------------------------------------------------------------------------------------------------

local function noting(command, ...)
  if changes[command] then
    remember(command, ...)
  elseif not looks[command] then
    error({err = 'ERR transaction.lua does not know how to undo ' .. command})
  end
  return raw.pcall(command, ...)
end

-- What the verbs have for `redis`.
local noted = setmetatable({pcall = noting}, {__index = raw})
function noted.call(...)
  local reply = noting(...)
  if type(reply) == 'table' and reply.err then error({err = reply.err}) end
  return reply
end

local verbs = {}

function verbs.save(KEYS, ARGV, redis)
--@verb save
end

function verbs.delete(KEYS, ARGV, redis)
--@verb delete
end

function verbs.increment(KEYS, ARGV, redis)
--@verb increment
end

function verbs.expire(KEYS, ARGV, redis)
--@verb expire
end

local applied = {OK = true, MISSING = true, AGAIN = true}
local function is_refused(fine, reply)
  return not fine or reply.err or not applied[reply[1]]
end

for _ = 1, take_number() do
  local kind, keys, wanted = take_one()
  if not still[kind](keys, wanted) then return {'CHANGED'} end
end

local replies = {}
for i = 1, take_number() do
  local verb, keys, arguments = take_one()
  -- deleting works without memory, storing does not: better to fail before either
  if i == 1 then call('ZADD', keys[3], 'XX', '0', '') end
  local fine, reply = pcall(verbs[verb], keys, arguments, noted)
  if is_refused(fine, reply) then
    undo()
    return {'REFUSED', i - 1, type(reply) == 'table' and reply or {err = tostring(reply)}}
  end
  replies[i] = reply
end
return {'OK', replies}
