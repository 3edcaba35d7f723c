-- Apply an operation once, however often and however late its call arrives.
--
-- An operation id names one sender that waits for one reply at a time, and its generation grows with every operation.
-- So one remembered reply for each id is enough, and what comes with an older generation was given up by its sender.
-- `ops` is a hash: operation id -> "<generation> <second of the server's clock> <reply>". What was refused is there
-- too, without a reply: a copy of the call that was held up on its way must not be applied after all.
--
-- `id` is "" if applying twice is applying once. `memory` is for how many milliseconds `ops` is kept, at most a second
-- less. `apply` does the work and returns a reply, and, if it was done, the text of what is remembered of it.
-- Returns that reply; {"AGAIN", text} if the operation was applied before; {"AGAIN"} if it was refused before, and its
-- sender may begin anew with another generation.

local function once(ops, id, generation, memory, apply)
  if id == '' then return (apply()) end
  local latest, at, text = string.match(call('HGET', ops, id) or '', '^(%d+) (%d+) ?(.*)$')
  if latest and tonumber(latest) >= tonumber(generation) then return {'AGAIN', text ~= '' and text or nil} end

  local reply, done = apply()
  local is_new = call('HSET', ops, id, generation .. ' ' .. clock[1] .. (done and ' ' .. done or ''))
  if at ~= clock[1] then call('PEXPIRE', ops, memory) end
  -- a hot session would remember every process that ever wrote to it
  if is_new == 1 and call('HLEN', ops) % 256 == 0 then
    local all = call('HGETALL', ops)
    for i = 1, #all, 2 do
      local second = string.match(all[i + 1], '^%d+ (%d+)')
      if (clock[1] - second) * 1000 > tonumber(memory) then call('HDEL', ops, all[i]) end
    end
  end
  return reply
end
