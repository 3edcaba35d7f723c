-- Mend entities of one user as somebody who has read them found them: what others have changed since stays as it is.
-- KEYS[1] remembered operations; KEYS[2], KEYS[3], KEYS[4] ... the hash of each kind, its deadlines, its quarantine:
-- `#`, how many records were put aside, and of each `<which>.<field>`
-- ARGV[1-3] lib/once.lua; then steps: which kind (1 ...), what, the number of a record, how many pairs, and the pairs
--   aside  field, value: put the record aside if that is all that it still is
--   stray  identity, "": it leads to this record no more if there is none
--   lead   identity, when the record was created: it leads to this record, if it is that and the identity leads nowhere
-- Replies {"OK"}.
--@include record
--@include once

local steps = {}

function steps.aside(kind, number, from, last)
  local version = number .. '.@version'
  local unread = call('HEXISTS', kind.key, version) == 1
  for i = from, last, 2 do
    if call('HGET', kind.key, ARGV[i]) ~= ARGV[i + 1] then return end
    if ARGV[i] == version then unread = false end
  end
  if unread then return end
  local which = call('HINCRBY', kind.quarantine, '#', 1)
  for i = from, last, 2 do
    call('HSET', kind.quarantine, which .. '.' .. ARGV[i], ARGV[i + 1])
    fields_drop(kind.key, kind.dl, ARGV[i])
  end
end

function steps.stray(kind, number, from, last)
  for i = from, last, 2 do
    local is_there = call('HEXISTS', kind.key, number .. '.@version') == 1
    if not is_there and call('HGET', kind.key, ARGV[i]) == number then call('HDEL', kind.key, ARGV[i]) end
  end
end

function steps.lead(kind, number, from, last)
  for i = from, last, 2 do
    if call('HGET', kind.key, number .. '.@created') == ARGV[i + 1] then call('HSETNX', kind.key, ARGV[i], number) end
  end
end

local function apply()
  local kinds, i = {}, 4
  for n = 2, #KEYS, 3 do
    local kind = {key = KEYS[n], dl = KEYS[n + 1], quarantine = KEYS[n + 2]}
    fields_reap(kind.key, kind.dl, now)
    kinds[#kinds + 1] = kind
  end
  while i <= #ARGV do
    local last = i + 3 + 2 * ARGV[i + 3]
    steps[ARGV[i + 1]](kinds[tonumber(ARGV[i])], ARGV[i + 2], i + 4, last)
    i = last + 1
  end
  return {'OK'}
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
