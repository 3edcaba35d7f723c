-- How long one field still lives, on servers where deadlines are kept beside the fields.
-- KEYS[1] meta, not looked at for nobody; KEYS[2] fields; KEYS[3] deadlines
-- ARGV[1] user_id, "" for nobody; ARGV[2] field
-- Replies {"OK", milliseconds of the field, milliseconds of all fields}, as HPTTL and PTTL say them; or {"OWNER"}.

local call = redis.call
local owner = ARGV[1] ~= '' and call('HGET', KEYS[1], 'user_id')
if owner and owner ~= ARGV[1] then return {'OWNER'} end

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local deadline = tonumber(call('ZSCORE', KEYS[3], ARGV[2]) or nil)
local left = deadline and deadline - now or -1
if call('HEXISTS', KEYS[2], ARGV[2]) == 0 or (deadline and left <= 0) then left = -2 end
return {'OK', left, call('PTTL', KEYS[2])}
