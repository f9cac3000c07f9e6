#!lua flags=allow-oom
-- Take jobs of one session out of a long queue, each near the place at which it was seen.
-- KEYS: meta, the session's queue
-- ARGV: deployment, then for each job: id, place, -1 for one that was not seen there
-- Returns how many were there, or the other deployment's id.
local owner = redis.call('HGET', KEYS[1], 'deployment')
if owner and owner ~= ARGV[1] then
  return owner
end
-- Not call: a key of another type in the queue's place is left alone.
local length = redis.pcall('LLEN', KEYS[2])
if type(length) ~= 'number' then
  length = 0
end
-- How far a job may have moved since. One that moved further is found by the next reconciliation.
local slack = 100
local gone = 'waqueue:gone'
local taken, first, last = 0, length, 0
for n = 2, #ARGV, 2 do
  redis.call('UNLINK', 'rq:job:' .. ARGV[n])
  local place = tonumber(ARGV[n + 1])
  local is_seen = length > 0 and place >= 0
  local at = is_seen and redis.call('LINDEX', KEYS[2], place) == ARGV[n] and place
  if is_seen and not at then
    local from = math.max(0, place - slack)
    for offset, id in ipairs(redis.call('LRANGE', KEYS[2], from, place + slack)) do
      if id == ARGV[n] then
        at = from + offset - 1
        break
      end
    end
  end
  if at then
    redis.call('LSET', KEYS[2], at, gone)
    taken, first, last = taken + 1, math.min(first, at), math.max(last, at)
  end
end
if taken > 0 then
  -- From the end that is nearer.
  redis.call('LREM', KEYS[2], last < length - first and taken or -taken, gone)
end
return taken
