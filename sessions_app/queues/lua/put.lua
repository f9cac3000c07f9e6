-- Put jobs into the mirror and tell the workers that their session has something.
-- KEYS: due, versions, meta, rq:queues, the session's queue
-- ARGV: deployment, wake channel, session, urgent ("1": look now although the session has a due time),
--       recheck ("1": a job that has its hash may be missing in the line all the same),
--       then for each job: id, job key, id of the job to stand before (or ""), number of fields, fields...
-- Returns the length of the queue, or the other deployment's id.
local owner = redis.call('HGET', KEYS[3], 'deployment')
if owner and owner ~= ARGV[1] then
  return owner
end
-- A key of that name that is no list is foreign and left alone; the session is looked at all the same.
local kind = redis.call('TYPE', KEYS[5]).ok
local is_foreign = kind ~= 'list' and kind ~= 'none'
local at = 6
local put = 0
while at <= #ARGV and not is_foreign do
  local id, key, before, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  -- A job that has its hash stands in the line already: a rebuild was faster.
  local exists = redis.call('EXISTS', key) == 1
  local stands = exists
  if stands and ARGV[5] == '1' then
    stands = redis.call('LPOS', KEYS[5], id, 'RANK', -1)
  end
  if not stands then
    if exists then
      -- Never for nothing: after a first write, Redis lets the rest of a script go past its limit of memory.
      redis.call('DEL', key)
    end
    redis.call('HSET', key, unpack(ARGV, at, at + count - 1))
    local placed = 0
    if before ~= '' then
      placed = redis.call('LINSERT', KEYS[5], 'BEFORE', before, id)
    end
    if placed < 1 then
      redis.call('RPUSH', KEYS[5], id)
    end
    put = put + 1
  end
  at = at + count
end
if put > 0 then
  redis.call('SADD', KEYS[4], KEYS[5])
end
-- A session that has a due time already keeps it: what is new stands behind what it waits for. The version tells a
-- claim that is under way to look again.
redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local changed = redis.call('ZADD', KEYS[1], ARGV[4] == '1' and 'LT' or 'NX', 'CH', now, ARGV[3])
if changed > 0 then
  redis.call('PUBLISH', ARGV[2], '')
end
return is_foreign and 0 or redis.call('LLEN', KEYS[5])
