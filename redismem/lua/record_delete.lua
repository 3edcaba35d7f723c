-- Forget records of one user.
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2] the index; KEYS[3], KEYS[4] ... each record's hash and deadlines
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered; then their names in the index
-- Replies {"OK", how many there were}, or {"AGAIN", the same}.
--@include record
--@include once

local function apply()
  local gone = 0
  for n = 3, #KEYS, 2 do
    gone = gone + call('EXISTS', KEYS[n])
    call('DEL', KEYS[n], KEYS[n + 1])
  end
  for n = 4, #ARGV do call('HDEL', KEYS[2], ARGV[n]) end
  return {'OK', gone}, gone
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
