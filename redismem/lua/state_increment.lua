-- Add to an integer field of a state; one that is missing counts as 0.
-- KEYS, ARGV: lib/state.lua; then the field, by
-- Replies {"OK", the sum}, or {"AGAIN", the same}; {"OVERFLOW"} or {"TYPE"}, and nothing was changed.
--@include state
--@include once

local field = ARGV[5]

local function apply()
  local sum = redis.pcall('HINCRBY', state, field, ARGV[6])
  if type(sum) == 'table' then
    return {string.find(call('HGET', state, field) or '', '^%-?%d+$') and 'OVERFLOW' or 'TYPE'}
  end
  note_activity()
  sum = call('HGET', state, field) -- a Lua number is not as long
  return {'OK', sum}, sum
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
