#!lua flags=no-writes,allow-oom
-- Read the contents of jobs, as many as one answer should hold, and one at least.
-- KEYS: the jobs
-- ARGV: bytes of one that is too large to be read, bytes of an answer
-- Returns, of each from the first on: its fields and values, none for what is no job, or how large it is.
local found, total = {}, 0
for n, key in ipairs(KEYS) do
  local size = redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) or 0
  if n > 1 and total + size > tonumber(ARGV[2]) then
    break
  end
  total = total + size
  if size > tonumber(ARGV[1]) then
    found[n] = size
  else
    -- Not call: a key of another type holds no job.
    local fields = redis.pcall('HGETALL', key)
    found[n] = fields.err and {} or fields
  end
end
return found
