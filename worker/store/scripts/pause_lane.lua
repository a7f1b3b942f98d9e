-- Pause a lane: no call but a probe now and then, until one is answered.
--
-- ARGV  1: JSON object: lane, reason, probe (whether the refused call was one),
--       delay_ms to the first probe, delay_max_ms to any
-- Returns 1 when the lane was not paused before, else 0
-- Atomic, so that many refused calls pause the lane, and tell of it, once.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local key = KEY.lane .. args.lane
local lane = base.hash_of(key)
if lane.held then
  return 0 -- a call from before the hold; the reason and the length of the pause are a person's
end
local probes = tonumber(lane.probes or 0)
local fresh = not lane.paused_reason
local fields = { paused_reason = args.reason }
if fresh then
  fields.paused_at_ms = now
  fields.probes = 0
  fields.pauses = tonumber(lane.pauses or 0) + 1
  fields.paused_until_ms = now + args.delay_ms
elseif args.probe then
  fields.probes = probes + 1
  fields.paused_until_ms = now + math.min(args.delay_ms * 2 ^ math.min(probes + 1, 16),
    args.delay_max_ms)
end
base.put(key, lane, fields)
redis.call('ZADD', KEY.lanes, 'LT', tonumber(lane.paused_until_ms), args.lane)
if fresh then
  base.append_event('lane.paused', args.lane .. '/paused/' .. lane.pauses, args.lane, now,
    { lane = args.lane, reason = args.reason, probeAt = base.iso_time(tonumber(lane.paused_until_ms)) })
end
return fresh and 1 or 0
