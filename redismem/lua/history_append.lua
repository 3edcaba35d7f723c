-- Append turns to a conversation, and trim it from its old end.
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2] turns: lib/history.lua; KEYS[3] lib/conversations.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] name of the conversation   ARGV[5] ttl (0: none, -1: as it is)
-- ARGV[6], ARGV[7], ARGV[8] most turns, bytes and tokens that stay, 0: any
-- ... then for each turn: role, content, tokens, metadata ("": none). Each fits the bounds by itself.
-- Replies {"OK", "<number of the first turn> <at>"}; {"AGAIN", the same} if it was done before.
--@include history
--@include conversations
--@include once

local turns = KEYS[2]
local ttl, most_turns = tonumber(ARGV[5]), tonumber(ARGV[6])
local most_bytes, most_tokens = tonumber(ARGV[7]), tonumber(ARGV[8])

local function trim(number, bytes, tokens)
  local oldest = turn_from(turns, 0).number
  local keep = most_turns > 0 and math.max(oldest, number - most_turns + 1) or oldest
  if most_bytes > 0 or most_tokens > 0 then
    keep = first_where(turns, keep, number, function(turn)
      return (most_bytes == 0 or bytes - turn.bytes_before <= most_bytes)
        and (most_tokens == 0 or tokens - turn.tokens_before <= most_tokens)
    end)
  end
  if keep > oldest then call('XTRIM', turns, 'MINID', whole(keep)) end
end

local function apply()
  local latest = latest_turn(turns)
  local number, at, bytes, tokens = 0, now, 0, 0
  if latest then
    number, at = latest.number, math.max(now, latest.at)
    bytes, tokens = totals(latest)
  end
  local first = number + 1
  for i = 9, #ARGV, 4 do
    local role, content, count, metadata = unpack(ARGV, i, i + 3)
    number = number + 1
    local fields = {'role', role, 'content', content, 'tokens', count, 'before', whole(bytes) .. ' ' .. whole(tokens)}
    if metadata ~= '' then
      fields[9], fields[10] = 'metadata', metadata
    end
    call('XADD', turns, whole(number) .. '-' .. whole(at), unpack(fields))
    bytes, tokens = bytes + #content + #metadata, tokens + count
  end
  trim(number, bytes, tokens)
  if ttl >= 0 or not latest then end_conversation(turns, KEYS[3], ARGV[4], math.max(ttl, 0)) end
  local done = whole(first) .. ' ' .. whole(at)
  return {'OK', done}, done
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
