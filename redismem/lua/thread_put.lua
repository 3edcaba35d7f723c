-- Add a checkpoint to a thread.
-- KEYS lib/thread.lua
-- ARGV[1] operation id   ARGV[2] its generation   ARGV[3] for how long it is remembered: lib/once.lua
-- ARGV[4] ttl (0: none, -1: as it is)   ARGV[5] how many checkpoints are kept, 0: all   ARGV[6] version, 0: the next
-- ARGV[7] "1" if the version must be the next one: it may be new to the thread because it was dropped   ARGV[8] state
-- Replies {"OK", "<version> <at> <latest version>"}; {"AGAIN", the same} if it was done before; {"CONFLICT"} if another
-- state has this version, or it is not the next: nothing was changed.
--@include thread
--@include once

local most, version, state = tonumber(ARGV[5]), ARGV[6], ARGV[8]

local function apply()
  local next_version = whole((latest_version() or 0) + 1)
  if version == '0' then version = next_version end
  if ARGV[7] == '1' and version ~= next_version then return {'CONFLICT'} end
  local member = checkpoint(version)
  if member and call('HGET', states, version) ~= state then return {'CONFLICT'} end
  if not member then add_checkpoint(version, whole(now), state) end
  if most > 0 then keep_latest(most) end
  end_thread(tonumber(ARGV[4]))
  local done = (member or version .. ' ' .. whole(now)) .. ' ' .. latest_version()
  return {'OK', done}, done
end

return once(KEYS[1], ARGV[1], ARGV[2], ARGV[3], apply)
