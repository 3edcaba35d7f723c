-- Tier "hpexpire": a command of its own gives each field its TTL.

-- Set fields and values, {field, value, ...}, with a TTL: milliseconds, or 0 for none.
local function fields_put(ns, dl, now, ttl, pairs_)
  call('HSET', ns, unpack(pairs_))
  if ttl > 0 then
    local names = {}
    for i = 1, #pairs_, 2 do names[#names + 1] = pairs_[i] end
    call('HPEXPIRE', ns, ttl, 'FIELDS', #names, unpack(names))
  end
end

--@include native
