-- Records of one user: hashes of attributes that say how they merge. Values are opaque, and are never decoded.
--
-- A record's hash has a field for each attribute, `<attribute>:<member>` for each member of a union, and
-- `<attribute>^`, the rank of a value of which the greatest stays: of two ranks the one that compares greater as text
-- is greater. `@version` counts the changes, `@schema` is the schema of the oldest worker that wrote since the last
-- migration, `@created` and `@updated` are milliseconds. Where many records share one hash, each has a prefix of its own.
--
-- A change is five arguments: how, field, value, rank, TTL in milliseconds (0: none; -1, of `set`: as it was). It is
-- one of
--   set    the value, whatever was there          first  the value, if there is none
--   rank   the value, if its rank is greater      add    an integer to an integer
--   erase  the field                              only   of the attributes that `value` names ("," between them) what
--                                                        the next changes set, of which there are `rank`

local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

--@include fields

local CHANGE = 5
local DIGITS = '^%-?%d+$'

-- The sum of an integer field that lives for `ttl`; or nil and why there is none.
local function add(key, dl, field, by, ttl)
  local sum = redis.pcall('HINCRBY', key, field, by)
  if type(sum) == 'table' then
    local text = string.find(call('HGET', key, field) or '', DIGITS)
    return nil, text and 'OVERFLOW' or 'TYPE'
  end
  if ttl > 0 then fields_set_ttl(key, dl, now, field, ttl) end
  return true
end

local changes, idle = {}, {}

function changes.set(key, dl, field, value, _, ttl)
  if ttl < 0 then ttl = fields_ttl(key, dl, now, field) or 0 end
  if call('HGET', key, field) == value and ttl == 0 and fields_ttl(key, dl, now, field) == 0 then return false end
  fields_put(key, dl, now, ttl, {field, value})
  return true
end

function changes.first(key, dl, field, value, _, ttl)
  if call('HEXISTS', key, field) == 1 then return false end
  fields_put(key, dl, now, ttl, {field, value})
  return true
end

function changes.rank(key, dl, field, value, rank, ttl)
  local greatest = call('HGET', key, field .. '^')
  if greatest and greatest >= rank then return false end
  fields_put(key, dl, now, ttl, {field, value, field .. '^', rank})
  return true
end

function changes.erase(key, dl, field)
  return fields_drop(key, dl, field) == 1
end

-- Apply the change `only` at ARGV[i] to a hash of one record. What it drops is `changed`.
local function only(key, dl, i, changed)
  local named, wanted = {}, {}
  for name in string.gmatch(ARGV[i + 2], '[^,]+') do named[name] = true end
  for c = i + CHANGE, i + ARGV[i + 3] * CHANGE, CHANGE do wanted[ARGV[c + 1]] = true end
  for _, field in ipairs(call('HKEYS', key)) do
    local name = string.gsub(string.match(field, '^[^:]*'), '%^$', '')
    if named[name] and not wanted[field] then
      fields_drop(key, dl, field)
      changed[#changed + 1] = field
    end
  end
end

-- Add what is to be added, of `count` changes from ARGV[from] on; or undo it all, and say which field and why not.
local function record_sums(key, dl, prefix, from, count, undo)
  for i = from, from + (count - 1) * CHANGE, CHANGE do
    if ARGV[i] == 'add' then
      local field = prefix .. ARGV[i + 1]
      local there, ttl = call('HGET', key, field), tonumber(ARGV[i + 4])
      local left = there and ttl > 0 and fields_ttl(key, dl, now, field)
      local done, why = add(key, dl, field, ARGV[i + 2], ttl)
      if not done then return field, why end
      idle[i] = there and ARGV[i + 2] == '0'
      undo[#undo + 1] = {key, dl, field, there, left}
    end
  end
end

-- Take back what `record_sums` added: the call fails as a whole.
local function record_undo(undo)
  for i = #undo, 1, -1 do
    local key, dl, field, there, left = unpack(undo[i], 1, 5)
    if there then
      fields_put(key, dl, now, left or fields_ttl(key, dl, now, field), {field, there})
    else
      fields_drop(key, dl, field)
    end
  end
end

-- Apply `count` changes from ARGV[from] on, whose sums were added before. Returns the fields that have changed.
local function record_apply(key, dl, prefix, from, count)
  local changed = {}
  for i = from, from + (count - 1) * CHANGE, CHANGE do
    local how, field = ARGV[i], ARGV[i + 1]
    if how == 'only' then
      only(key, dl, i, changed)
    elseif how == 'add' then
      if not idle[i] then changed[#changed + 1] = field end
    elseif changes[how](key, dl, prefix .. field, ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])) then
      changed[#changed + 1] = field
    end
  end
  return changed
end

-- After changes: count them as one version. Returns {version, "1" if the record is new, changed fields ...}.
local function record_settle(key, dl, prefix, schema, changed)
  local head = call('HMGET', key, prefix .. '@version', prefix .. '@schema')
  local version = head[1]
  if not version or #changed > 0 then
    version = call('HINCRBY', key, prefix .. '@version', 1)
    call('HSET', key, prefix .. '@updated', now)
    if not head[1] then call('HSET', key, prefix .. '@created', now) end
    if not head[2] or tonumber(schema) < tonumber(head[2]) then call('HSET', key, prefix .. '@schema', schema) end
    fields_written(key, dl, nil)
  end
  local reply = {version, head[1] and '0' or '1'}
  for _, field in ipairs(changed) do reply[#reply + 1] = field end
  return reply
end
