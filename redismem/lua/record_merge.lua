-- Merge any number of records of one user, all or none.
-- KEYS[1] remembered operations: lib/once.lua; KEYS[2] the index: hash, record -> ""
-- KEYS[3], KEYS[4] ... each record's hash and its deadlines
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] schema of the caller's model; then of each record: its name in the index ("": it has none), the version that
-- it must have ("0": none, "": any), how ("merge", but not into a record of an older schema, nor by a rank into what has
-- none; "force" to do so; "migrate" to make this its schema), how many changes, and the changes: lib/record.lua
-- Replies {"OK", {version, "1" if new, changed fields ...} ...}, {"CONFLICT", record, its version}, {"OUTDATED", record},
-- {"OVERFLOW", record, field} or {"TYPE", record, field}; {"AGAIN", versions, "+" after those of new records} if it was
-- done before.
--@include record
--@include once

local schema = ARGV[4]

local function parsed()
  local records, i = {}, 5
  for n = 3, #KEYS, 2 do
    local count = tonumber(ARGV[i + 3])
    records[#records + 1] = {
      key = KEYS[n], dl = KEYS[n + 1], name = ARGV[i], version = ARGV[i + 1], how = ARGV[i + 2],
      from = i + 4, count = count,
    }
    i = i + 4 + count * CHANGE
  end
  return records
end

-- Whether there is a value without a rank, that once merged by another policy, where one is to be merged by its rank.
local function is_unranked(record)
  for i = record.from, record.from + (record.count - 1) * CHANGE, CHANGE do
    local field = ARGV[i + 1]
    if ARGV[i] == 'rank' and call('HEXISTS', record.key, field .. '^') == 0
      and call('HEXISTS', record.key, field) == 1 then return true end
  end
  return false
end

local function apply()
  local records, undo = parsed(), {}
  for _, record in ipairs(records) do
    fields_reap(record.key, record.dl, now)
    local head = call('HMGET', record.key, '@version', '@schema')
    local version, older = head[1] or '0', tonumber(head[2] or schema) < tonumber(schema)
    if record.version ~= '' and record.version ~= version then return {'CONFLICT', record.name, version} end
    if record.how == 'merge' and (older or is_unranked(record)) then return {'OUTDATED', record.name} end
  end
  for _, record in ipairs(records) do
    local field, why = record_sums(record.key, record.dl, '', record.from, record.count, undo)
    if why then
      record_undo(undo)
      return {why, record.name, field}
    end
  end

  local reply, versions = {'OK'}, {}
  for n, record in ipairs(records) do
    local changed = record_apply(record.key, record.dl, '', record.from, record.count)
    reply[n + 1] = record_settle(record.key, record.dl, '', schema, changed)
    if record.how == 'migrate' then call('HSET', record.key, '@schema', schema) end
    local is_new = reply[n + 1][2] == '1'
    if is_new and record.name ~= '' then call('HSET', KEYS[2], record.name, '') end
    versions[n] = reply[n + 1][1] .. (is_new and '+' or '')
  end
  return reply, table.concat(versions, ' ')
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
