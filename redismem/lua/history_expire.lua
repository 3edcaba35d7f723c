-- Give a conversation a TTL, or take it away.
-- KEYS[1] turns: lib/history.lua; KEYS[2] lib/conversations.lua
-- ARGV[1] to ARGV[3] not used: the call may be repeated   ARGV[4] name of the conversation   ARGV[5] ttl, 0: none
-- Replies {"OK", "1" if there is such a conversation}.

local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include conversations

if call('EXISTS', KEYS[1]) == 0 then return {'OK', '0'} end
end_conversation(KEYS[1], KEYS[2], ARGV[4], tonumber(ARGV[5]))
return {'OK', '1'}
