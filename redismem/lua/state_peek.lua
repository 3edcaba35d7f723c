-- The top of the stack of a state.
-- KEYS[1] the state: lib/state.lua
-- Replies the value; nil if the stack is empty.

local call = redis.call
return call('HGET', KEYS[1], 'context:' .. (call('HGET', KEYS[1], 'depth') or '0'))
