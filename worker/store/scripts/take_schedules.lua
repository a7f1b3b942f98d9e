-- Take batches whose openings are to be computed again.
--
-- ARGV  1: JSON object: limit, delay_ms (until another worker may take them)
-- Returns JSON: now_ms, windows (batch id -> window; {} if it is empty)
-- Atomic, so that only one worker at a time takes them. A batch that has expired, or has no window any more,
-- is dropped.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local windows = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.schedules, '-inf', now, 'LIMIT', 0, args.limit)) do
  local window = redis.call('HGET', KEY.batch .. id, 'window')
  if window then
    windows[id] = window
    redis.call('ZADD', KEY.schedules, now + args.delay_ms, id)
  else
    redis.call('ZREM', KEY.schedules, id)
  end
end
return cjson.encode({ now_ms = now, windows = windows })
