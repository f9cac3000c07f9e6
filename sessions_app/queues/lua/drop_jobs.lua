-- Delete jobs of a queue that was copied, but for those that somebody wrote anew since, or that are another queue's.
-- KEYS: their hashes
-- ARGV: the queue, then for each hash its created_at and enqueued_at as copied, with a bar between; empty if it was not
-- Returns how many were deleted.
local deleted = 0
for at, key in ipairs(KEYS) do
  if redis.call('TYPE', key).ok == 'hash' then
    local hash = redis.call('HMGET', key, 'origin', 'created_at', 'enqueued_at')
    local stamp = (hash[2] or '') .. '|' .. (hash[3] or '')
    if hash[1] == ARGV[1] and (ARGV[at + 1] == '' or ARGV[at + 1] == stamp) then
      deleted = deleted + redis.call('UNLINK', key)
    end
  end
end
return deleted
