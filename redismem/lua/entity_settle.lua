-- See to it that the index knows what a user knows, of entities that were forgotten or merged at one time.
-- KEYS[1] remembered operations: lib/once.lua; on a cluster, `settled` is when this was last done, as these are
-- KEYS[2] forgotten: entity_forget.lua; KEYS[3] ... the hash of each kind; then sets of users, one for each of the
-- entities, unless they are on other servers and were told before
-- ARGV[1-3] lib/once.lua   ARGV[4] the user   ARGV[5] how many kinds   ARGV[6] for how long operations are remembered;
-- then of each entity: which kind (1 ...), `<kind>:<identity>`, "1" if the index has the user, "0" if it does not
-- Replies {"OK", {of which of them the index, on other servers, is wrong ...}}.
--@include record
--@include once

local kinds = tonumber(ARGV[5])
local is_near = #KEYS > 2 + kinds

local function apply()
  local wrong = {}
  for i = 7, #ARGV, 3 do
    local one = ARGV[i + 1]
    local is_known = call('HEXISTS', KEYS[2 + ARGV[i]], string.match(one, ':(.*)$'))
    if is_near then call(is_known == 0 and 'SREM' or 'SADD', KEYS[3 + kinds + (i - 7) / 3], ARGV[4]) end
    if is_near or is_known == tonumber(ARGV[i + 2]) then
      call('SREM', KEYS[2], one)
    else
      wrong[#wrong + 1] = one
    end
  end
  if not is_near then
    call('HSET', KEYS[1], 'settled', '0 ' .. clock[1])
    call('PEXPIRE', KEYS[1], ARGV[6])
  end
  return {'OK', wrong}
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
