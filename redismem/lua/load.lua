-- Read fields of one namespace, or of any other hash of values, on servers where deadlines are kept beside them.
-- KEYS[1] meta, not looked at for nobody; KEYS[2] fields; KEYS[3] deadlines
-- ARGV[1] user_id, "" for nobody; ARGV[2] ... fields, none for all of them
-- Replies {"OK", the value of each field, nil where there is none}; without fields {"OK", field, value, ... of all};
-- or {"OWNER"}.

local call = redis.call
local ns, dl = KEYS[2], KEYS[3]
local owner = ARGV[1] ~= '' and call('HGET', KEYS[1], 'user_id')
if owner and owner ~= ARGV[1] then return {'OWNER'} end

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local found = {'OK'}
for i = 2, #ARGV do
  local deadline = call('ZSCORE', dl, ARGV[i])
  found[i] = (not deadline or tonumber(deadline) > now) and call('HGET', ns, ARGV[i])
end
if #ARGV > 1 then return found end

local dead = {}
for _, field in ipairs(call('ZRANGEBYSCORE', dl, '-inf', now)) do dead[field] = true end
local all = call('HGETALL', ns)
for i = 1, #all, 2 do
  if not dead[all[i]] then
    found[#found + 1] = all[i]
    found[#found + 1] = all[i + 1]
  end
end
return found
