-- The conversations of a user: a sorted set, name -> the millisecond at which it ends, or infinity.

-- Note when a conversation ends, and end the set with the last of them. A key is there in the millisecond of its end.
-- `ttl` is milliseconds, or 0 for none.
local function end_conversation(turns, conversations, name, ttl)
  local deadline = ttl > 0 and string.format('%.0f', now + ttl) or 'inf'
  call('ZADD', conversations, deadline, name)
  local ended = call('ZRANGEBYSCORE', conversations, '-inf', '(' .. string.format('%.0f', now), 'LIMIT', '0', '1000')
  if #ended > 0 then call('ZREM', conversations, unpack(ended)) end

  local latest = tonumber(call('ZREVRANGE', conversations, '0', '0', 'WITHSCORES')[2])
  if latest == math.huge then
    call('PERSIST', conversations)
  elseif latest then
    call('PEXPIREAT', conversations, string.format('%.0f', latest))
  end
  if ttl > 0 then call('PEXPIREAT', turns, deadline) else call('PERSIST', turns) end
end
