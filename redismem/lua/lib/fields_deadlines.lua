-- Tier "deadlines": `dl` is a sorted set of field -> the millisecond at which it ends, judged by the server's clock.
-- Scripts that write reap first, so what they then find in `ns` lives.

local function fields_reap(ns, dl, now)
  repeat
    local dead = call('ZRANGEBYSCORE', dl, '-inf', now, 'LIMIT', '0', '1000')
    if #dead > 0 then
      call('HDEL', ns, unpack(dead))
      call('ZREM', dl, unpack(dead))
    end
  until #dead < 1000
end

-- If the server has evicted one of the two keys: deadlines without fields are nobody's, and fields that all had one end
-- with their hash, which still has its end. `deadline` is that of the hash itself, nil or false if it has none.
local function fields_restore(ns, dl, now, deadline)
  local has_fields, has_deadlines = call('EXISTS', ns) == 1, call('EXISTS', dl) == 1
  if has_deadlines and not has_fields then
    for _, field in ipairs(call('ZRANGE', dl, '0', '-1')) do call('ZREM', dl, field) end
  elseif has_fields and not has_deadlines and not deadline then
    local left = call('PTTL', ns)
    if left > 0 then
      for _, field in ipairs(call('HKEYS', ns)) do call('ZADD', dl, now + left, field) end
    end
  end
end

-- Set fields and values, {field, value, ...}, with a TTL: milliseconds, or 0 for none.
local function fields_put(ns, dl, now, ttl, pairs_)
  call('HSET', ns, unpack(pairs_))
  local scores, names = {}, {}
  for i = 1, #pairs_, 2 do
    scores[i], scores[i + 1] = now + ttl, pairs_[i]
    names[#names + 1] = pairs_[i]
  end
  if ttl > 0 then
    call('ZADD', dl, unpack(scores))
  else
    call('ZREM', dl, unpack(names))
  end
end

local function fields_get(ns, dl, now, field)
  return call('HGET', ns, field)
end

-- Milliseconds left, 0 when the field lives for ever; nil when there is none.
local function fields_ttl(ns, dl, now, field)
  if call('HEXISTS', ns, field) == 0 then return nil end
  local deadline = call('ZSCORE', dl, field)
  if not deadline then return 0 end
  return tonumber(deadline) > now and deadline - now or nil
end

-- Give an existing field a TTL, or take it away with 0.
local function fields_set_ttl(ns, dl, now, field, ttl)
  if ttl > 0 then
    call('ZADD', dl, now + ttl, field)
  else
    call('ZREM', dl, field)
  end
end

local function fields_drop(ns, dl, field)
  call('ZREM', dl, field)
  return call('HDEL', ns, field)
end

local function fields_count(ns, dl, now, doubt)
  return call('HLEN', ns)
end

-- Whether any field lives, reaped or not.
local function fields_any(ns, dl, now)
  return call('HLEN', ns) > call('ZCOUNT', dl, '-inf', now)
end

-- End the keys themselves at `deadline`, or with the last of their fields if every field has an end of its own.
-- Time passes in here, and PEXPIREAT deletes at once a key whose millisecond has come: `dl` goes first, so that no
-- field is ever without its deadline.
local function fields_end_key(ns, dl, deadline)
  local timed = call('ZCARD', dl)
  if timed > 0 and timed == call('HLEN', ns) then
    local latest = tonumber(call('ZREVRANGE', dl, '0', '0', 'WITHSCORES')[2])
    if not deadline or latest < deadline then deadline = latest end
  end
  for _, key in ipairs({dl, ns}) do
    if deadline then
      call('PEXPIREAT', key, deadline)
    else
      call('PERSIST', key)
    end
  end
end

local fields_written = fields_end_key

-- The fields that have a TTL: {field, the millisecond at which it ends, ...}.
local function fields_deadlines(ns, dl, now)
  return call('ZRANGEBYSCORE', dl, '-inf', '+inf', 'WITHSCORES')
end
