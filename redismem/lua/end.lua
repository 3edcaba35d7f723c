-- Forget the whole session.
-- KEYS: lib/guard.lua, every namespace of the session
-- ARGV: lib/guard.lua; then "ns:<namespace>" of each pair of keys
-- Replies {"OK", values forgotten}, {"AGAIN", as the first time}, {"OWNER"}, {"STALE"}, or, changing nothing,
-- {"MORE", {namespaces not passed ...}}.
--@include guard
--@include once

local function apply()
  local not_allowed = forbidden(call('HGET', meta, 'user_id'))
  if not_allowed then return not_allowed end
  local more = undeclared(7, #ARGV)
  if #more > 0 then return {'MORE', more} end

  local values = 0
  for i = 2, #KEYS - others, 2 do
    fields_reap(KEYS[i], KEYS[i + 1], now)
    values = values + fields_count(KEYS[i], KEYS[i + 1], now, 0)
  end
  for i = 1, #KEYS - others do call('UNLINK', KEYS[i]) end
  return {'OK', values}, values
end

return once(ops, ARGV[2], ARGV[3], ARGV[4], apply)
