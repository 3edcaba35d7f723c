-- The session's share of every write to one namespace: who owns it, what it may hold, when it was active, when it ends.
--
-- KEYS  as lib/guard.lua; the first pair is the namespace written to, the others those that the caller knows of
-- ARGV  as lib/guard.lua, then
-- ARGV[7] session_id                ARGV[8] schema
-- ARGV[9] session_ttl, 0: none      ARGV[10] resolution of last_active
-- ARGV[11] max_namespaces, 0: any   ARGV[12] max_fields, 0: any
-- ARGV[13] how many pairs of keys there are; ARGV[14] ... "ns:<namespace>" of each; the verb's arguments follow

--@include guard

local ns, dl, name = KEYS[2], KEYS[3], ARGV[14]
local resolution = tonumber(ARGV[10])
local last = 13 + tonumber(ARGV[13])
local first = last + 1
local head = call('HMGET', meta, 'created_at', 'user_id', 'last_active', 'deadline', name)
fields_reap(ns, dl, now)
fields_restore(ns, dl, now, head[4])

-- Why the write may not be, or nil. `adding` is how many fields it would add to the namespace.
local function refusal(adding)
  local not_allowed = forbidden(head[2])
  if not_allowed then return not_allowed end
  local most_namespaces, most_fields = tonumber(ARGV[11]), tonumber(ARGV[12])
  if most_namespaces > 0 and not head[5] and #namespaces() >= most_namespaces then return {'NAMESPACES'} end
  local room = most_fields - adding
  if most_fields > 0 and adding > 0 and fields_count(ns, dl, now, room) > room then return {'FIELDS'} end
  return nil
end

local function note_activity()
  if now - (tonumber(head[3]) or 0) >= resolution then call('HSET', meta, 'last_active', now) end
end

local function register()
  if head[1] then
    if not head[5] then call('HSET', meta, name, '') end
    note_activity()
  else
    call('HSET', meta, 'session_id', ARGV[7], 'created_at', now, 'last_active', now, 'schema', ARGV[8], name, '')
  end
  if ARGV[1] ~= '' and not head[2] then call('HSET', meta, 'user_id', ARGV[1]) end
  note_fence()
end

-- Meta lives as long as the longest-lived of the session's fields; `ttl` is the longest written now, 0 for ever.
-- Returns for how long meta lives now, -1 for ever.
local function outlive(ttl)
  local left = head[1] and call('PTTL', meta) or 0
  if left < 0 then return -1 end
  if ttl == 0 then
    call('PERSIST', meta)
    return -1
  end
  local slack = ttl + 2 * resolution
  if left >= slack then return left end
  call('PEXPIRE', meta, slack)
  return slack
end

-- If activity extends the session: do it, and return its new deadline.
local function refresh()
  local session_ttl = tonumber(ARGV[9])
  if session_ttl == 0 then return nil end
  local deadline = now + session_ttl + resolution
  set_deadline(deadline)
  return deadline
end

-- After the write. Returns when the session began, for how long meta lives or -1, or -2 if the session ends as a whole,
-- and {namespaces left behind ...}.
local function settle(ttl)
  register()
  local began, deadline = head[1] or tostring(now), tonumber(head[4])
  if refresh() then return {began, -2, undeclared(14, last)} end
  fields_written(ns, dl, deadline)
  return {began, deadline and -2 or outlive(ttl), {}}
end
