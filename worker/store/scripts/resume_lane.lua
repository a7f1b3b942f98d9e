-- Reopen a paused lane.
--
-- ARGV  1: JSON object: lane, by_hand (absent: a probe was answered)
-- Returns 1 when the lane was resumed, else 0: it was not paused, or it is held
-- Atomic, so that the lane resumes, and tells of it, once.
--
-- needs: base

local AT_ONCE = 1000

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local key = KEY.lane .. args.lane
local lane = base.hash_of(key)
if not lane.paused_reason or (lane.held and not args.by_hand) then
  return 0
end
base.put(key, lane, { paused_reason = false, paused_at_ms = false, paused_until_ms = false,
  probes = false, failures = false, held = false })
if args.by_hand then
  -- Imports that stood back after a failed probe need not wait for others any more.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.delayed .. args.lane, now, '+inf', 'LIMIT', 0,
    AT_ONCE)) do
    redis.call('ZADD', KEY.delayed .. args.lane, now, id)
  end
end
base.append_event('lane.resumed', args.lane .. '/resumed/' .. lane.pauses, args.lane, now,
  { lane = args.lane })
base.schedule_lane(args.lane, now, now)
return 1
