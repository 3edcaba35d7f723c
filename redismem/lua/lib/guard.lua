-- What every script that writes to a session knows: who may, whether it was done before, how a whole session ends.
--
-- KEYS  as lib/session.lua; then, if there is an operation id or a lock, the remembered operations: lib/once.lua;
--       then, if there is a lock, its token counter, or, where that is on another server, the operations once more
-- ARGV[1] user_id, "" for nobody
-- ARGV[2] operation id   ARGV[3] its generation   ARGV[4] for how long it is remembered: lib/once.lua
-- ARGV[5] name of the lock, "" for none                         ARGV[6] token

--@include session

local others = ARGV[5] ~= '' and 2 or ARGV[2] ~= '' and 1 or 0 -- keys after the namespaces
local ops, counter = KEYS[#KEYS - others + 1], KEYS[#KEYS]

-- Why this sender may not write, or nil. `owner` is the session's.
local function forbidden(owner)
  if ARGV[1] ~= '' and owner and owner ~= ARGV[1] then return {'OWNER'} end
  if ARGV[5] == '' then return nil end
  local token = tonumber(ARGV[6])
  local seen = tonumber(call('HGET', meta, 'fence:' .. ARGV[5]) or 0)
  local granted = counter ~= ops and tonumber(call('GET', counter) or 0) or 0
  if token < math.max(seen, granted) then return {'STALE'} end
  return nil
end

-- The session has now been written to under this fence.
local function note_fence()
  if ARGV[5] ~= '' then call('HSET', meta, 'fence:' .. ARGV[5], ARGV[6]) end
end

-- End the session and every namespace passed at `deadline`, or never if it is nil or false.
local function set_deadline(deadline)
  if deadline then
    call('HSET', meta, 'deadline', deadline)
    call('PEXPIREAT', meta, deadline)
  else
    call('HDEL', meta, 'deadline')
    call('PERSIST', meta)
  end
  for i = 2, #KEYS - others, 2 do fields_end_key(KEYS[i], KEYS[i + 1], deadline) end
end
