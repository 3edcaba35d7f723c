-- Drop named values of one hash; without names, all of them.
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2] fields; KEYS[3] deadlines
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua; then fields
-- Replies {"OK", how many there were}, or {"AGAIN", the same}.

local call = redis.call
local key, dl = KEYS[2], KEYS[3]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields
--@include once

local function apply()
  local gone = 0
  fields_reap(key, dl, now)
  for i = 4, #ARGV do gone = gone + fields_drop(key, dl, ARGV[i]) end
  if #ARGV == 3 then
    gone = fields_count(key, dl, now, 0)
    call('UNLINK', key, dl)
  end
  fields_written(key, dl, nil)
  return {'OK', gone}, gone
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
