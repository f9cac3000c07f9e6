#!lua flags=allow-oom
-- Look at these sessions now.
-- KEYS: due, versions, meta
-- ARGV: deployment, wake channel, sessions...
-- Returns the number of sessions, or the other deployment's id.
local owner = redis.call('HGET', KEYS[3], 'deployment')
if owner and owner ~= ARGV[1] then
  return owner
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 3, #ARGV do
  redis.call('HINCRBY', KEYS[2], ARGV[at], 1)
  redis.call('ZADD', KEYS[1], 'LT', now, ARGV[at])
end
redis.call('PUBLISH', ARGV[2], '')
return #ARGV - 2
