#!lua flags=allow-oom
-- Take up to n due sessions, oldest first. There are no leases: each is due again by itself after `again_ms`.
-- KEYS: due, versions, meta, rq:suspended, loads, called
-- ARGV: deployment, n, again_ms, a fresh generation to set when this Redis was wiped or restarted,
--       the worker ("" for one that only looks), how many messages it has in flight, wake channel
-- Returns {generation, mark, suspended, ms to the next due time (-1: none), whether others are due, session, version,
-- ...}, or the other deployment's id.
local meta = redis.call('HMGET', KEYS[3], 'deployment', 'generation', 'run_id', 'mark')
if meta[1] and meta[1] ~= ARGV[1] then
  return meta[1]
end
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if not meta[2] or meta[3] ~= run_id then
  meta[2] = ARGV[4]
  redis.call('HSET', KEYS[3], 'deployment', ARGV[1], 'generation', meta[2], 'run_id', run_id)
end
local reply = {meta[2], meta[4] or '0', redis.call('EXISTS', KEYS[4]), -1, 0}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, in_flight = tonumber(ARGV[2]), tonumber(ARGV[6])
-- Even shares: nobody takes more than that of all workers that were here in the last seconds and have room. `loads`
-- has, for each, how many it has in flight, how many more it would take, and when it said so.
local loads = redis.call('HGETALL', KEYS[5])
local total, workers = in_flight, 1
for n = 1, #loads, 2 do
  local count, room, at = string.match(loads[n + 1], '^(%d+) (%d+) (%d+)$')
  if not at or math.abs(now - at) > 60000 then
    redis.call('HDEL', KEYS[5], loads[n])
  elseif loads[n] ~= ARGV[5] and room ~= '0' and math.abs(now - at) < 3000 then
    total, workers = total + count, workers + 1
  end
end
local is_leaving, taken = false, 0
if workers > 1 and limit > 0 and reply[3] == 0 then
  local waiting = redis.call('ZCOUNT', KEYS[1], '-inf', now)
  local share = math.ceil((total + waiting) / workers)
  limit = math.max(0, math.min(limit, share - in_flight))
  is_leaving = waiting > limit and limit < tonumber(ARGV[2])
end
if reply[3] == 0 then
  local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, limit)
  if #due > 0 then
    local again = now + ARGV[3]
    local versions = redis.call('HMGET', KEYS[2], unpack(due))
    local pushed, raised = {}, {}
    for n, session in ipairs(due) do
      local version = (tonumber(versions[n]) or 0) + 1
      pushed[2 * n - 1], pushed[2 * n] = again, session
      raised[2 * n - 1], raised[2 * n] = session, version
      reply[#reply + 1] = session
      reply[#reply + 1] = version
    end
    redis.call('ZADD', KEYS[1], unpack(pushed))
    redis.call('HSET', KEYS[2], unpack(raised))
    in_flight, taken = in_flight + #due, #due
  end
end
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[5], ARGV[5], string.format('%d %d %d', in_flight, ARGV[2] - taken, now))
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  reply[4] = math.max(0, first[2] - now)
  reply[5] = reply[4] == 0 and 1 or 0
end
if is_leaving then
  -- The others have room, and are called, but not by everybody at once. Should they not come, the next look takes what
  -- is then this worker's share.
  if redis.call('SET', KEYS[6], '', 'NX', 'PX', 20) then
    redis.call('PUBLISH', ARGV[7], ARGV[5])
  end
  reply[4] = 20
end
return reply
