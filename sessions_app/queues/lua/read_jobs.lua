#!lua flags=no-writes,allow-oom
-- Read the contents of jobs, as many as one answer should hold, and one at least. A large one is not read here: Redis
-- would serve nobody else for as long.
-- KEYS: the jobs
-- ARGV: bytes of a large one, bytes of an answer
-- Returns, of each from the first on, its fields and values: none for what is no job. If the first one is large, only
-- how large it is.
local found, total = {}, 0
for n, key in ipairs(KEYS) do
  local size = redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) or 0
  if size > tonumber(ARGV[1]) then
    return n == 1 and { size } or found
  end
  total = total + size
  if n > 1 and total > tonumber(ARGV[2]) then
    return found
  end
  -- Not call: a key of another type holds no job.
  local fields = redis.pcall('HGETALL', key)
  found[n] = fields.err and {} or fields
end
return found
