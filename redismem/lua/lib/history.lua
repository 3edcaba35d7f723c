-- A conversation: its turns, numbered from 1 on without a gap, of which the oldest may be gone.
--
-- A stream. The id of an entry is "<number>-<at>", `at` being milliseconds that never go back from one turn to the
-- next. Its fields are `role`, `content` and `metadata` (opaque; missing if there is none), `tokens`, and `before`:
-- "<bytes> <tokens>" of all turns that were ever before it. So what any run of turns takes is one subtraction, and
-- where a run of a given size begins is found by halving. The bytes of a turn are those of its content and metadata.

local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function whole(number) return string.format('%.0f', number) end

local function parsed(entry)
  if not entry then return nil end
  local turn = {}
  for i = 1, #entry[2], 2 do turn[entry[2][i]] = entry[2][i + 1] end
  local number, at = string.match(entry[1], '^(%d+)-(%d+)$')
  local bytes, tokens = string.match(turn.before, '^(%d+) (%d+)$')
  turn.number, turn.at = tonumber(number), tonumber(at)
  turn.bytes_before, turn.tokens_before = tonumber(bytes), tonumber(tokens)
  return turn
end

-- The first turn from this number on.
local function turn_from(turns, number)
  return parsed(call('XRANGE', turns, whole(number), '+', 'COUNT', '1')[1])
end

local function latest_turn(turns)
  return parsed(call('XREVRANGE', turns, '+', '-', 'COUNT', '1')[1])
end

-- The bytes and tokens of all turns up to this one.
local function totals(turn)
  return turn.bytes_before + #turn.content + #(turn.metadata or ''), turn.tokens_before + turn.tokens
end

-- The first number from `low` to `high` of whose turn this is true, as it is of all turns after it; else high + 1.
local function first_where(turns, low, high, is_true)
  while low <= high do
    local middle = math.floor((low + high) / 2)
    if is_true(turn_from(turns, middle)) then high = middle - 1 else low = middle + 1 end
  end
  return low
end
