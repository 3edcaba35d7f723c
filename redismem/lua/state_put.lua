-- Put fields into a state; without fields, only note that it is active, if it is there.
-- KEYS, ARGV: lib/state.lua, of which ARGV[1] to ARGV[3] are not used: the call may be repeated; then field, value, ...
-- Replies {"OK", 1 if there is such a state now, else 0}.
--@include state

if #ARGV == 4 and call('EXISTS', state) == 0 then return {'OK', 0} end
-- unpack takes a few thousand items at most
for from = 5, #ARGV, 4000 do call('HSET', state, unpack(ARGV, from, math.min(from + 3999, #ARGV))) end
note_activity()
return {'OK', 1}
