#!lua flags=allow-oom
-- Take up to n due sessions, oldest first. There are no leases: each is due again by itself after `again_ms`.
-- KEYS: due, versions, meta, rq:suspended
-- ARGV: deployment, n, again_ms, a fresh generation to set when this Redis was wiped or restarted
-- Returns {generation, mark, suspended, ms to the next due time (-1: none), session, version, ...}, or the other
-- deployment's id.
local meta = redis.call('HMGET', KEYS[3], 'deployment', 'generation', 'run_id', 'mark')
if meta[1] and meta[1] ~= ARGV[1] then
  return meta[1]
end
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if not meta[2] or meta[3] ~= run_id then
  meta[2] = ARGV[4]
  redis.call('HSET', KEYS[3], 'deployment', ARGV[1], 'generation', meta[2], 'run_id', run_id)
end
local reply = {meta[2], meta[4] or '0', redis.call('EXISTS', KEYS[4]), -1}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if reply[3] == 0 then
  local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
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
  end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  reply[4] = math.max(0, first[2] - now)
end
return reply
