-- Read a checkpoint of a thread.
-- KEYS lib/thread.lua, of which the first is not used
-- ARGV[1] version, 0: the latest
-- Replies {"<version> <at>", state, latest version}, or {} if there is none.
--@include thread

local latest = latest_version()
local version = ARGV[1] == '0' and latest or ARGV[1]
local member = latest and checkpoint(version)
if not member then return {} end
return {member, call('HGET', states, version), latest}
