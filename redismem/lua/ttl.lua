-- How long one field still lives, on servers where deadlines are kept beside the fields.
-- KEYS[1] fields; KEYS[2] deadlines; ARGV[1] field
-- Replies milliseconds, -1 for ever, -2 when there is none, as HPTTL does.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local deadline = redis.call('ZSCORE', KEYS[2], ARGV[1])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return -2 end
if not deadline then return -1 end
return deadline - now > 0 and deadline - now or -2
