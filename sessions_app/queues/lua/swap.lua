-- Make a list that was written beside a queue the queue, and put the old one aside to be looked through.
-- KEYS: the new list, the queue, the name for the old list, meta, rq:queues
-- ARGV: deployment
-- Returns 1 when there was an old list, 0 when not, or the other deployment's id.
local owner = redis.call('HGET', KEYS[4], 'deployment')
if owner and owner ~= ARGV[1] then
  return owner
end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'list' and kind ~= 'none' then
  return 0
end
if kind == 'list' then
  redis.call('RENAME', KEYS[2], KEYS[3])
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('PERSIST', KEYS[1])
  redis.call('RENAME', KEYS[1], KEYS[2])
  redis.call('SADD', KEYS[5], KEYS[2])
end
return kind == 'list' and 1 or 0
