-- Merge extracted entities of one user into those that are known, each under its identity, all or none.
--
-- All entities of one kind share a hash: `<number>.<field>` are the fields of one record (lib/record.lua), `#` is the
-- greatest number given, and each identity points to its record: `id=<id>` and `key=<natural key>` -> number. An id
-- names one record for ever; a natural key names the record that came first, and another only if both have ids. Then
-- the other takes it over if the first was told another since: `<number>.@key` is the latest natural key of a record
-- that was told several.
-- All is planned before anything is written: which record each entity is, which turn out to be one, what sums become.
--
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2], KEYS[3] ... the hash of each kind and its deadlines; then sets
-- of users, one for each identity, unless they are on other servers and were told before
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] the user, for the sets   ARGV[5] how many sets
-- ARGV[6] for each kind: the version of the model, how many attributes merge unlike others, and of each its name and
-- how: "sum", or "first" if what was written first stays; and of `@key` "last", if the latest natural key is what the
-- record has
-- ... then for each entity: which kind (1 ...), `id=<id>` or "", `key=<natural key>` or "", how many changes, and the
-- changes: lib/record.lua
-- Replies {"OK", outcomes}, one for each entity: "added", "linked" (its id was not known, or two records turned out to
-- be one), "updated" or "unchanged"; {"OVERFLOW", which entity, field} if a sum has more than 15 digits,
-- {"TYPE", which entity, field} if what is to be added, or counts the changes, is no integer; {"AGAIN", outcomes} if it
-- was done before. Without sets, "SETTLE" comes after the outcomes if the user has forgotten entities of late: what the
-- index was told may have been taken back since (entity_settle.lua).
--@include record
--@include once

local SLICE = 4000

-- The kinds, and where in ARGV entities begin. What is planned for each: where identities lead (`leads`), the ids of
-- records and their latest natural keys (`ids`, `names`), which records become others (`joins`, and by their numbers
-- `joined`), what integers become (`sums`).
local function kinds_of(sets)
  local kinds, i = {}, 6
  for n = 2, #KEYS - sets, 2 do
    local kind = {
      key = KEYS[n], dl = KEYS[n + 1], schema = ARGV[i], how = {},
      leads = {}, ids = {}, names = {}, joins = {}, joined = {}, sums = {},
    }
    local last = i + 1 + 2 * ARGV[i + 1]
    for a = i + 2, last, 2 do kind.how[ARGV[a]] = ARGV[a + 1] end
    kinds[#kinds + 1], i = kind, last + 1
  end
  return kinds, i
end

local function entities_of(kinds, i)
  local entities = {}
  while i <= #ARGV do
    local count = tonumber(ARGV[i + 3])
    entities[#entities + 1] = {
      kind = kinds[tonumber(ARGV[i])], id = ARGV[i + 1], natural = ARGV[i + 2], from = i + 4, count = count,
    }
    i = i + 4 + count * CHANGE
  end
  return entities
end

-- Plan that an integer grows. Returns why it cannot, or nil: up to 15 digits Lua's numbers are exact.
local function grow(kind, field, by)
  local there = kind.sums[field] or call('HGET', kind.key, field) or '0'
  if not string.find(there, DIGITS) or not string.find(by, DIGITS) then return 'TYPE' end
  local sum = there + by
  if math.abs(sum) >= 1e15 then return 'OVERFLOW' end
  kind.sums[field] = string.format('%.0f', sum)
  return nil
end

-- The number of the record to which an identity leads, or nil.
local function led(kind, identity)
  if identity == '' then return nil end
  local number = kind.leads[identity] or call('HGET', kind.key, identity)
  local join = kind.joined[number]
  return join and join.to or number or nil
end

local function id_of(kind, number)
  return kind.ids[number] or call('HGET', kind.key, number .. '.@id')
end

-- The latest natural key of a record, if it was told several and the latest is what it has; else nil.
local function name_of(kind, number)
  if not kind.how['@key'] then return nil end
  return kind.names[number] or call('HGET', kind.key, number .. '.@key') or nil
end

-- Plan which record its natural key leads to, that led to `first`, if to any, and whether it is one of several.
local function name(entity, first)
  local kind, natural, number = entity.kind, entity.natural, entity.number
  local another = first and first ~= number and name_of(kind, first)
  if not first or another and another ~= natural then kind.leads[natural] = number end
  if entity.outcome ~= 'added' and kind.how['@key'] and (first ~= number or name_of(kind, number)) then
    kind.names[number] = natural
  end
end

-- Plan which record an entity is: its `number`, and its `outcome` unless that depends on what changes. Returns why it
-- can be none, and the field, or nil.
local function resolve(entity, place)
  local kind, id, natural = entity.kind, entity.id, entity.natural
  local by_id, by_key = led(kind, id), led(kind, natural)
  entity.number = by_id
  if by_id and by_key and by_id ~= by_key and not id_of(kind, by_key) then
    local join = {from = by_key, to = by_id, place = place, fields = {}}
    kind.joins[#kind.joins + 1], kind.joined[by_key] = join, join
    entity.outcome = 'linked'
  elseif by_key and not by_id and (id == '' or not id_of(kind, by_key)) then
    entity.number = by_key
    if id ~= '' then entity.outcome = 'linked' end
  end
  if not entity.number then
    local why = grow(kind, '#', '1')
    if why then return why, '#' end
    entity.number, entity.outcome = kind.sums['#'], 'added'
  end
  if id ~= '' then kind.leads[id], kind.ids[entity.number] = entity.number, id end
  if natural ~= '' then name(entity, by_key) end
  return nil
end

-- Find what the records have that turn out to be others, and what leads to them: one look at the kind, however many.
local function look(kind)
  local pointers = {}
  for _, field in ipairs(call('HKEYS', kind.key)) do
    local number = string.match(field, '^(%d+)%.')
    local join = kind.joined[number or '']
    if join then
      join.fields[#join.fields + 1] = string.sub(field, #number + 2)
    elseif not number and field ~= '#' then
      pointers[#pointers + 1] = field
    end
  end
  for first = 1, #pointers, SLICE do
    local slice = {unpack(pointers, first, math.min(first + SLICE - 1, #pointers))}
    for n, number in ipairs(call('HMGET', kind.key, unpack(slice))) do
      local join = kind.joined[number]
      if join then kind.leads[slice[n]] = join.to end
    end
  end
end

-- Why the sums of joined records cannot be: {why, which entity, field}, or nil.
local function refused_join(kind)
  for _, join in ipairs(kind.joins) do
    for _, attribute in ipairs(join.fields) do
      if kind.how[attribute] == 'sum' then
        local value = call('HGET', kind.key, join.from .. '.' .. attribute) or '0'
        local why = grow(kind, join.to .. '.' .. attribute, value)
        if why then return {why, join.place, attribute} end
      end
    end
  end
  return nil
end

-- Why what is to be added to an entity cannot be, or nil.
local function refused_change(entity, place)
  local kind, prefix = entity.kind, entity.number .. '.'
  for _, head in ipairs({'@version', '@schema'}) do
    if not string.find(call('HGET', kind.key, prefix .. head) or '0', DIGITS) then return {'TYPE', place, head} end
  end
  for c = entity.from, entity.from + (entity.count - 1) * CHANGE, CHANGE do
    if ARGV[c] == 'add' then
      local why = grow(kind, prefix .. ARGV[c + 1], ARGV[c + 2])
      if why then return {why, place, ARGV[c + 1]} end
    end
  end
  return nil
end

-- Plan everything. Returns why it cannot be, or nil.
local function refused(kinds, entities)
  for place, entity in ipairs(entities) do
    local why, field = resolve(entity, place)
    if why then return {why, place, field} end
  end
  for _, kind in ipairs(kinds) do
    if #kind.joins > 0 then
      look(kind)
      local refusal = refused_join(kind)
      if refusal then return refusal end
    end
  end
  for place, entity in ipairs(entities) do
    local join = entity.kind.joined[entity.number]
    if join then entity.number = join.to end
    local refusal = refused_change(entity, place)
    if refusal then return refusal end
  end
  return nil
end

-- Move all that is known of a record to the one that it turned out to be. Sums are added up, the greater rank stays;
-- else the record that was changed later says what is so, and what stays as it was first is that of the older one.
local function join(kind, from, to, fields)
  local key, dl, times = kind.key, kind.dl, {}
  for n, head in ipairs({from .. '.@created', to .. '.@created', from .. '.@updated', to .. '.@updated'}) do
    times[n] = tonumber(call('HGET', key, head) or now) or now
  end
  local wins = {first = times[1] < times[2], latest = times[3] > times[4]}
  for _, attribute in ipairs(fields) do
    local field, target = from .. '.' .. attribute, to .. '.' .. attribute
    local value, rank = call('HGET', key, field), call('HGET', key, field .. '^')
    if value and not string.find(attribute, '^@') and not string.find(attribute, '^[^:]*%^$') then
      local ttl, how = fields_ttl(key, dl, now, field), kind.how[string.match(attribute, '^[^:]*')] or 'latest'
      if how == 'sum' then
        add(key, dl, target, value, ttl)
      elseif rank then
        changes.rank(key, dl, target, value, rank, ttl)
      else
        changes[wins[how] and 'set' or 'first'](key, dl, target, value, '', ttl)
      end
    end
  end
  for _, attribute in ipairs(fields) do fields_drop(key, dl, from .. '.' .. attribute) end
  if #fields > 0 then
    call('HSET', key, to .. '.@created', math.min(times[1], times[2]), to .. '.@updated', math.max(times[3], times[4]))
  end
end

-- Write what is planned of records as a whole.
local function link(kind)
  for _, one in ipairs(kind.joins) do join(kind, one.from, one.to, one.fields) end
  for identity, number in pairs(kind.leads) do
    local one = kind.joined[number]
    call('HSET', kind.key, identity, one and one.to or number)
  end
  for number, id in pairs(kind.ids) do call('HSET', kind.key, number .. '.@id', id) end
  for number, natural in pairs(kind.names) do call('HSET', kind.key, number .. '.@key', natural) end
  if kind.sums['#'] then call('HSET', kind.key, '#', kind.sums['#']) end
end

-- Write what is said of one entity, whose sums are known to be right. Returns its outcome.
local function tell(entity)
  local kind, prefix = entity.kind, entity.number .. '.'
  record_sums(kind.key, kind.dl, prefix, entity.from, entity.count, {})
  local count = #record_apply(kind.key, kind.dl, prefix, entity.from, entity.count)
  local outcome = entity.outcome or (count > 0 and 'updated' or 'unchanged')
  record_settle(kind.key, kind.dl, prefix, kind.schema, outcome == 'unchanged' and {} or {'@id'})
  return outcome
end

local function apply()
  local sets = tonumber(ARGV[5])
  local kinds, first = kinds_of(sets)
  for _, kind in ipairs(kinds) do fields_reap(kind.key, kind.dl, now) end
  local entities, outcomes = entities_of(kinds, first), {}
  local refusal = refused(kinds, entities)
  if refusal then return refusal end

  for n = #KEYS - sets + 1, #KEYS do call('SADD', KEYS[n], ARGV[4]) end
  for _, kind in ipairs(kinds) do link(kind) end
  for n, entity in ipairs(entities) do outcomes[n] = tell(entity) end
  local done = table.concat(outcomes, ' ')
  return {'OK', done}, done
end

local reply = once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
if ARGV[5] == '0' and (reply[1] == 'OK' or reply[1] == 'AGAIN' and reply[2]) then
  local second = string.match(call('HGET', KEYS[1], 'settled') or '', '%d+$')
  if second and (clock[1] - second) * 1000 <= tonumber(ARGV[3]) then reply[3] = 'SETTLE' end
end
return reply
