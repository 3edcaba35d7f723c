-- Read the latest turns of a conversation.
-- KEYS[1] turns: lib/history.lua
-- ARGV[1] number of the first that is wanted   ARGV[2] from when on, in milliseconds
-- ARGV[3] how many at most, 0: any   ARGV[4] how many tokens they may have together, 0: any
-- Replies the entries of the stream.
--@include history

local turns = KEYS[1]
local since, most, most_tokens = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local latest = latest_turn(turns)
if not latest then return {} end
local number, _, tokens = latest.number, totals(latest)

local first = math.max(tonumber(ARGV[1]), turn_from(turns, 0).number)
if most > 0 then first = math.max(first, number - most + 1) end
if since > 0 or most_tokens > 0 then
  first = first_where(turns, first, number, function(turn)
    return turn.at >= since and (most_tokens == 0 or tokens - turn.tokens_before <= most_tokens)
  end)
end
return call('XRANGE', turns, whole(first), '+')
