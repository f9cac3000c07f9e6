#!lua flags=allow-oom
-- Take settled jobs out of the mirror, raise the mark, and give claimed sessions back.
-- KEYS: due, versions, meta
-- ARGV: deployment, wake channel, highest token known, generation of the claims, number of jobs,
--       for each job: session, id
--       for each session: session, version of the claim, delay in ms (-1: not due)
-- Returns how many claims had been overtaken, or the other deployment's id.
local meta = redis.call('HMGET', KEYS[3], 'deployment', 'generation', 'mark')
if meta[1] and meta[1] ~= ARGV[1] then
  return meta[1]
end
if tonumber(ARGV[3]) > tonumber(meta[3] or '0') then
  redis.call('HSET', KEYS[3], 'mark', ARGV[3])
end
local at = 6
for _ = 1, ARGV[5] do
  local queue = 'rq:queue:wa:' .. ARGV[at]
  -- Not call: a key of another type in the queue's place is left alone, and keeps nobody from being given back.
  local length = redis.pcall('LLEN', queue)
  -- A job without its hash is hardly in its queue, and looking for it in a long one would hold everybody up.
  if type(length) == 'number' and (redis.call('UNLINK', 'rq:job:' .. ARGV[at + 1]) == 1 or length < 10000) then
    redis.call('LREM', queue, 1, ARGV[at + 1])
  end
  at = at + 2
end
local sessions = {}
for n = at, #ARGV, 3 do
  sessions[#sessions + 1] = ARGV[n]
end
if #sessions == 0 then
  return 0
end
local versions = redis.call('HMGET', KEYS[2], unpack(sessions))
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local signalled, overtaken = {}, 0
for n, session in ipairs(sessions) do
  if meta[2] ~= ARGV[4] or versions[n] ~= ARGV[at + 3 * n - 2] then
    -- Somebody signalled or claimed this session meanwhile and may have seen it busy: it is looked at once more.
    redis.call('HINCRBY', KEYS[2], session, 1)
    redis.call('ZADD', KEYS[1], 'LT', now, session)
    signalled[session] = true
    overtaken = overtaken + 1
  end
end
local due, idle = {}, {}
for n, session in ipairs(sessions) do
  local delay = tonumber(ARGV[at + 3 * n - 1])
  if signalled[session] then
    -- It stays due, whatever an earlier claim of it says.
  elseif delay < 0 then
    idle[#idle + 1] = session
  else
    due[#due + 1] = now + delay
    due[#due + 1] = session
  end
end
if #due > 0 then
  redis.call('ZADD', KEYS[1], unpack(due))
end
if #idle > 0 then
  redis.call('ZREM', KEYS[1], unpack(idle))
end
if overtaken > 0 then
  redis.call('PUBLISH', ARGV[2], '')
end
return overtaken
