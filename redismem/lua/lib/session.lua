-- What every script on a session knows: the server's time, and the registered namespaces.
--
-- KEYS[1]  meta: session_id, user_id, created_at, last_active, schema, deadline, one field `ns:<namespace>` each
-- KEYS[2], KEYS[3] ...  the fields of a namespace and their deadlines (a sorted set, tier "deadlines" only), in pairs
-- Scripts that write have one or two keys more: lib/guard.lua. Times are milliseconds. meta has a `deadline` while the
-- session as a whole has an end: touch and session_ttl set it.

local call = redis.call
local meta = KEYS[1]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

local function namespaces()
  local names = {}
  for _, field in ipairs(call('HKEYS', meta)) do
    if string.sub(field, 1, 3) == 'ns:' then names[#names + 1] = field end
  end
  return names
end

-- The registered namespaces that are not among ARGV[from] ... ARGV[to]: the caller did not pass their keys.
local function undeclared(from, to)
  local declared, missing = {}, {}
  for i = from, to do declared[ARGV[i]] = true end
  for _, name in ipairs(namespaces()) do
    if not declared[name] then missing[#missing + 1] = name end
  end
  return missing
end
