-- Read all fields of one namespace, and when they end: for a transaction, which has to know what time alone may take.
-- KEYS[1] fields, on servers that expire fields themselves; else KEYS and ARGV as load.lua, without fields
-- Replies {what HGETALL or load.lua would, {field, the millisecond at which it ends, ...}}.

local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

local function load()
--@verb load
end

if #KEYS == 1 then return {call('HGETALL', KEYS[1]), fields_deadlines(KEYS[1], nil, now)} end
return {load(), fields_deadlines(KEYS[2], KEYS[3], now)}
