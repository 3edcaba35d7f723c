-- Tier "hsetex": value and TTL in one command.

-- Set fields and values, {field, value, ...}, with a TTL: milliseconds, or 0 for none.
local function fields_put(ns, dl, now, ttl, pairs_)
  if ttl > 0 then
    call('HSETEX', ns, 'PX', ttl, 'FIELDS', #pairs_ / 2, unpack(pairs_))
  else
    call('HSET', ns, unpack(pairs_))
  end
end

--@include native
