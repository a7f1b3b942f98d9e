-- Write the openings of a batch's window.
--
-- ARGV  1: JSON object: batch_id, window (for which they were computed), openings (a list of pairs: from and
--       until, in milliseconds since the epoch), delay_ms (until they are to be computed again)
-- Returns JSON: {}
-- Atomic, so that they never belong to another window than the batch's.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local key = KEY.batch .. args.batch_id
if redis.call('HGET', key, 'window') == args.window then
  redis.call('HSET', key, 'openings', cjson.encode(args.openings))
  redis.call('ZADD', KEY.schedules, 'XX', now + args.delay_ms, args.batch_id)
  if redis.call('ZADD', KEY.openings, 'XX', 'CH', now, args.batch_id) == 1 then
    base.wake()
  end
end
return '{}'
