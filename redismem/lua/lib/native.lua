-- Fields with a TTL each, where the server expires fields itself. `dl` is unused: deadlines are the server's business.

local function fields_reap(ns, dl, now) end

local function fields_restore(ns, dl, now, deadline) end

local function fields_get(ns, dl, now, field)
  return call('HGET', ns, field)
end

-- Milliseconds left, 0 when the field lives for ever; nil when there is none.
local function fields_ttl(ns, dl, now, field)
  local ttl = call('HPTTL', ns, 'FIELDS', '1', field)[1]
  if not ttl or ttl == -2 then return nil end
  return ttl == -1 and 0 or math.max(ttl, 1)  -- HPTTL says 0 in a field's last millisecond
end

-- Give an existing field a TTL, or take it away with 0.
local function fields_set_ttl(ns, dl, now, field, ttl)
  if ttl > 0 then
    call('HPEXPIRE', ns, ttl, 'FIELDS', '1', field)
  else
    call('HPERSIST', ns, 'FIELDS', '1', field)
  end
end

local function fields_drop(ns, dl, field)
  local there = call('HEXISTS', ns, field)
  call('HDEL', ns, field)
  return there
end

-- How many fields live. HLEN counts expired ones that are not yet reaped, so only a count above `doubt` is made exact.
local function fields_count(ns, dl, now, doubt)
  local count = call('HLEN', ns)
  if count > doubt then count = #call('HKEYS', ns) end
  return count
end

-- Whether any field lives; of many, some do.
local function fields_any(ns, dl, now)
  local count = call('HLEN', ns)
  return count > 1000 or (count > 0 and #call('HKEYS', ns) > 0)
end

-- End the key itself at `deadline`, or never if it is nil or false.
local function fields_end_key(ns, dl, deadline)
  if deadline then
    call('PEXPIREAT', ns, deadline)
  else
    call('PERSIST', ns)
  end
end

-- After fields were written: a key that is new has no end yet.
local function fields_written(ns, dl, deadline)
  if deadline then call('PEXPIREAT', ns, deadline) end
end

-- The fields that have a TTL: {field, the millisecond at which it ends, ...}.
local function fields_deadlines(ns, dl, now)
  local names, found = call('HKEYS', ns), {}
  for from = 1, #names, 4000 do
    local chunk = {unpack(names, from, math.min(from + 3999, #names))}
    for i, left in ipairs(call('HPTTL', ns, 'FIELDS', #chunk, unpack(chunk))) do
      if left >= 0 then
        found[#found + 1] = chunk[i]
        found[#found + 1] = now + left
      end
    end
  end
  return found
end
