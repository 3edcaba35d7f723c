-- Forget all entities of one user.
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2], KEYS[3] ... the hash of each kind and its deadlines
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- Replies {"OK", how many there were}, or {"AGAIN", the same}.
--@include record
--@include once

local function apply()
  local gone = 0
  for n = 2, #KEYS, 2 do
    for _, field in ipairs(call('HKEYS', KEYS[n])) do
      if string.find(field, '^%d+%.@version$') then gone = gone + 1 end
    end
    call('DEL', KEYS[n], KEYS[n + 1])
  end
  return {'OK', gone}, gone
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
