-- Have RQ forget a queue by name, unless something was put into it meanwhile.
-- KEYS: the list, meta, rq:queues
-- ARGV: deployment
-- Returns 1 when it was forgotten, 0 when not, or the other deployment's id.
local owner = redis.call('HGET', KEYS[2], 'deployment')
if owner and owner ~= ARGV[1] then
  return owner
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
return redis.call('SREM', KEYS[3], KEYS[1])
