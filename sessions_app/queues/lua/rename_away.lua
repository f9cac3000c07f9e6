-- Rename a list that nobody owns, so that it can be copied while late producers begin a new one.
-- KEYS: the list, its new name, meta, rq:queues
-- ARGV: deployment
-- Returns 1, 0 when there is no such list, or the other deployment's id.
local owner = redis.call('HGET', KEYS[3], 'deployment')
if owner and owner ~= ARGV[1] then
  return owner
end
if redis.call('TYPE', KEYS[1]).ok ~= 'list' then
  return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('SREM', KEYS[4], KEYS[1])
return 1
