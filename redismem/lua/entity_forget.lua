-- Forget all entities of one user, and note of what the index is yet to be told: entity_settle.lua.
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2] forgotten: set of `<kind>:<identity>`
-- KEYS[3], KEYS[4] ... the hash of each kind and its deadlines
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] ... the name of each kind
-- Replies {"OK", how many there were, what is noted}; {"AGAIN", how many there were, what is still noted} if it was done
-- before.
--@include record
--@include once

local SLICE = 4000

local function forget(kind, key, dl)
  local gone, noted = 0, {}
  for _, field in ipairs(call('HKEYS', key)) do
    if string.find(field, '^%d+%.@version$') then gone = gone + 1 end
    if string.find(field, '^%l+=') then noted[#noted + 1] = kind .. ':' .. field end
  end
  for first = 1, #noted, SLICE do
    call('SADD', KEYS[2], unpack(noted, first, math.min(first + SLICE - 1, #noted)))
  end
  call('DEL', key, dl)
  return gone
end

local function apply()
  local gone = 0
  for n = 3, #KEYS, 2 do gone = gone + forget(ARGV[(n - 3) / 2 + 4], KEYS[n], KEYS[n + 1]) end
  return {'OK', gone}, gone
end

local reply = once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
if reply[2] then reply[3] = call('SMEMBERS', KEYS[2]) end
return reply
