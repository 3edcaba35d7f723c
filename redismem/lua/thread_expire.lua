-- Give a thread a TTL, or take it away.
-- KEYS lib/thread.lua
-- ARGV[1] to ARGV[3] not used: the call may be repeated   ARGV[4] ttl, 0: none
-- Replies {"OK", "1" if there is such a thread}.
--@include thread

if not latest_version() then return {'OK', '0'} end
end_thread(tonumber(ARGV[4]))
return {'OK', '1'}
