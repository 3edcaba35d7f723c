-- The conversations of a user that have not ended.
-- KEYS[1] lib/conversations.lua
-- Replies their names.

local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
return call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
