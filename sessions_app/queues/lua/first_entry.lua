-- What the first entry of a list says of when it was handed in, unless it is too large to be a message.
-- KEYS: the list
-- ARGV: bytes at most, what the keys of its jobs begin with (empty: the entry itself says it)
-- Returns a list: the entry, or of a job when it was made; nothing when there is none, or it is too large.
if redis.call('TYPE', KEYS[1]).ok ~= 'list' then
  return {}
end
local entry = redis.call('LINDEX', KEYS[1], 0)
if entry and ARGV[2] ~= '' then
  local job = ARGV[2] .. entry
  entry = redis.call('TYPE', job).ok == 'hash' and redis.call('HGET', job, 'created_at')
end
if not entry or #entry > tonumber(ARGV[1]) then
  return {}
end
return { entry }
