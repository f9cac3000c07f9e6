#!lua flags=allow-oom
-- Take jobs of one session out of the mirror, many in one pass.
-- KEYS: meta, the session's queue
-- ARGV: deployment, then the ids: fast for those that stand together, in any order
-- Returns how many of the ids, from the first on, were dealt with, or the other deployment's id.
local owner = redis.call('HGET', KEYS[1], 'deployment')
if owner and owner ~= ARGV[1] then
  return owner
end
-- Not call: a key of another type in the queue's place is left alone.
local length = redis.pcall('LLEN', KEYS[2])
local wanted = {}
for n = 2, #ARGV do
  local had_hash = redis.call('UNLINK', 'rq:job:' .. ARGV[n]) == 1
  -- A job without its hash is hardly in its queue, and looking for it in a long one would hold everybody up.
  wanted[ARGV[n]] = type(length) == 'number' and (had_hash or length < 10000)
end
-- LREM would walk through the queue once for each. One look finds the first of those that stand together; those around
-- it are marked by their positions, and go in one walk.
local gone = 'waqueue:gone'
local looked = 0
for n = 2, #ARGV do
  -- Those that stand scattered over a long queue: Redis has others to serve.
  if looked > 100000 then
    return n - 2
  end
  local at = wanted[ARGV[n]] and redis.call('LPOS', KEYS[2], ARGV[n])
  if at then
    local from, marked = math.max(0, at - #ARGV), 0
    for offset, id in ipairs(redis.call('LRANGE', KEYS[2], from, at + #ARGV)) do
      if wanted[id] then
        redis.call('LSET', KEYS[2], from + offset - 1, gone)
        wanted[id] = false
        marked = marked + 1
      end
    end
    redis.call('LREM', KEYS[2], marked, gone)
    looked = looked + 2 * at + #ARGV
  elseif wanted[ARGV[n]] then
    looked = looked + length
  end
end
return #ARGV - 1
