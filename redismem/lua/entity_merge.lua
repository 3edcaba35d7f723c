-- Merge extracted entities of one user into those that are known, each under its identity, all or none.
--
-- All entities of one kind share a hash: `<number>.<field>` are the fields of one record (lib/record.lua), `#` is the
-- greatest number given, and each identity points to its record: `id=<id>` and `key=<natural key>` -> number. An id
-- names one record for ever; a natural key names the record that came first, and another only if both have ids.
--
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2], KEYS[3] ... the hash of each kind and its deadlines; then sets
-- of users, one for each identity, unless they are on other servers and were told before
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] the user, for the sets   ARGV[5] how many sets
-- ARGV[6] for each kind: the version of the model, how many attributes are sums, and their names
-- ... then for each entity: which kind (1 ...), `id=<id>` or "", `key=<natural key>` or "", how many changes, and the
-- changes: lib/record.lua
-- Replies {"OK", {number, outcome, joined numbers ...} ...}: an outcome is "added", "linked" (its id was not known, or
-- two records turned out to be one), "updated" or "unchanged"; {"OVERFLOW", which entity, field} if a sum
-- has more than 15 digits, {"TYPE", which entity, field}; {"AGAIN", outcomes} if it was done before.
--@include record
--@include once

local kinds, i, sets = {}, 6, tonumber(ARGV[5])
for n = 2, #KEYS - sets, 2 do
  local kind = {key = KEYS[n], dl = KEYS[n + 1], schema = ARGV[i], sums = {}}
  for s = i + 2, i + 1 + ARGV[i + 1] do kind.sums[ARGV[s]] = true end
  i = i + 2 + ARGV[i + 1]
  kinds[#kinds + 1] = kind
end

local function id_of(kind, number)
  return call('HGET', kind.key, number .. '.@id')
end

-- Everything that is known of a record that turned out to be another one: what that lacks is moved, the greater rank
-- stays, sums are added up, and what led to the one leads to the other.
local function join(kind, from, to)
  local key, dl, prefix = kind.key, kind.dl, from .. '.'
  local all, left_over = call('HGETALL', key), {}
  for f = 1, #all, 2 do
    local field, value = all[f], all[f + 1]
    local attribute = string.match(field, '^%d+%.(.+)$')
    if not attribute then
      if value == from and field ~= '#' then call('HSET', key, field, to) end
    elseif string.sub(field, 1, #prefix) == prefix then
      left_over[#left_over + 1] = field
      if not string.find(attribute, '^@') and not string.find(attribute, '^[^:]*%^$') then
        local target, ttl = to .. '.' .. attribute, fields_ttl(key, dl, now, field)
        local rank = call('HGET', key, field .. '^')
        if kind.sums[attribute] then
          add(key, dl, target, value, ttl)
        elseif rank then
          changes.rank(key, dl, target, value, rank, ttl)
        else
          changes.first(key, dl, target, value, '', ttl)
        end
      end
    end
  end
  for _, field in ipairs(left_over) do fields_drop(key, dl, field) end
end

-- The record that has these identities: its number, whether it is new or was linked, and which records it took in.
local function resolve(kind, id, natural)
  local key = kind.key
  local by_id = id ~= '' and call('HGET', key, id)
  local by_key = natural ~= '' and call('HGET', key, natural)
  local number, outcome, joined = by_id, nil, {}
  if by_id and by_key and by_id ~= by_key and not id_of(kind, by_key) then
    join(kind, by_key, by_id)
    outcome, joined = 'linked', {by_key}
  elseif not by_id and by_key then
    local known = id_of(kind, by_key)
    if id == '' or not known then
      number = by_key
      if id ~= '' then outcome = 'linked' end
    end
  end
  if not number then
    number, outcome = tostring(call('HINCRBY', key, '#', 1)), 'added'
  end
  if id ~= '' then call('HSET', key, id, number, number .. '.@id', id) end
  if natural ~= '' then call('HSETNX', key, natural, number) end
  return number, outcome, joined
end

-- Whether all that is to be added is far from 64 bits, whatever records turn out to be one.
local function adds_up(entity)
  local number = call('HGET', entity.kind.key, entity.id) or call('HGET', entity.kind.key, entity.natural) or ''
  for c = entity.from, entity.from + (entity.count - 1) * CHANGE, CHANGE do
    if ARGV[c] == 'add' then
      local there = call('HGET', entity.kind.key, number .. '.' .. ARGV[c + 1]) or '0'
      if not string.find(there, DIGITS) then return {'TYPE', entity.place, ARGV[c + 1]} end
      if #there > 15 or #ARGV[c + 2] > 15 then return {'OVERFLOW', entity.place, ARGV[c + 1]} end
    end
  end
  return nil
end

local function apply()
  for _, kind in ipairs(kinds) do fields_reap(kind.key, kind.dl, now) end
  local entities, at = {}, i
  while at <= #ARGV do
    local count = tonumber(ARGV[at + 3])
    local entity = {
      place = #entities + 1, kind = kinds[tonumber(ARGV[at])], id = ARGV[at + 1], natural = ARGV[at + 2], from = at + 4,
      count = count,
    }
    local refused = adds_up(entity)
    if refused then return refused end
    entities[#entities + 1] = entity
    at = at + 4 + count * CHANGE
  end

  for n = #KEYS - sets + 1, #KEYS do call('SADD', KEYS[n], ARGV[4]) end
  local reply, outcomes = {'OK'}, {}
  for n, entity in ipairs(entities) do
    local kind = entity.kind
    local number, outcome, joined = resolve(kind, entity.id, entity.natural)
    local prefix = number .. '.'
    record_sums(kind.key, kind.dl, prefix, entity.from, entity.count, {})
    local changed = record_apply(kind.key, kind.dl, prefix, entity.from, entity.count)
    if outcome and #changed == 0 then changed = {'@id'} end
    record_settle(kind.key, kind.dl, prefix, kind.schema, changed)
    outcome = outcome or (#changed > 0 and 'updated' or 'unchanged')
    reply[n + 1], outcomes[n] = {number, outcome, unpack(joined)}, outcome
  end
  return reply, table.concat(outcomes, ' ')
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
