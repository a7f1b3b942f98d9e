-- Pause a lane for an operator: no calls and no probes until an operator resumes it.
--
-- ARGV  1: JSON object: lane, reason, hold_ms (until the probe, which never comes)
-- Returns JSON: paused (whether the lane was not paused before)
-- Atomic, so that a lane that pauses automatically meanwhile has only one event.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local key = KEY.lane .. args.lane
local lane = base.hash_of(key)
local fresh = not lane.paused_reason
-- Late answers respect `held`: the answer to a probe neither resumes the lane nor schedules another probe.
local fields = { held = 1, paused_reason = args.reason, paused_until_ms = now + args.hold_ms }
if fresh then
  fields.paused_at_ms = now
  fields.pauses = tonumber(lane.pauses or 0) + 1
end
base.put(key, lane, fields)
if fresh then
  base.append_event('lane.paused', args.lane .. '/paused/' .. lane.pauses, args.lane, now,
    { lane = args.lane, reason = args.reason, probeAt = cjson.null })
end
return cjson.encode({ paused = fresh })
