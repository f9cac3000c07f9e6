-- Take settled jobs out of the mirror, raise the mark, and give claimed sessions back.
-- KEYS: due, versions, meta
-- ARGV: deployment, wake channel, highest token settled, number of jobs,
--       for each job: queue key, job key, id
--       for each session: session, generation and version of the claim, delay in ms (-1: not due)
-- Returns how many claims had been overtaken, or the other deployment's id.
local meta = redis.call('HMGET', KEYS[3], 'deployment', 'generation', 'mark')
if meta[1] and meta[1] ~= ARGV[1] then
  return meta[1]
end
if tonumber(ARGV[3]) > tonumber(meta[3] or '0') then
  redis.call('HSET', KEYS[3], 'mark', ARGV[3])
end
local at = 5
for _ = 1, ARGV[4] do
  -- A key in the place of the queue that is no list must not keep the others from being given back.
  redis.pcall('LREM', ARGV[at], 1, ARGV[at + 2])
  redis.call('UNLINK', ARGV[at + 1])
  at = at + 3
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local overtaken = 0
while at <= #ARGV do
  local session, delay = ARGV[at], tonumber(ARGV[at + 3])
  if meta[2] == ARGV[at + 1] and redis.call('HGET', KEYS[2], session) == ARGV[at + 2] then
    if delay < 0 then
      redis.call('ZREM', KEYS[1], session)
    else
      redis.call('ZADD', KEYS[1], now + delay, session)
    end
  else
    -- Somebody signalled or claimed this session meanwhile and may have seen it busy: it is looked at once more.
    redis.call('HINCRBY', KEYS[2], session, 1)
    redis.call('ZADD', KEYS[1], 'LT', now, session)
    overtaken = overtaken + 1
  end
  at = at + 4
end
if overtaken > 0 then
  redis.call('PUBLISH', ARGV[2], '')
end
return overtaken
