-- Pause a lane by hand: no call and no probe, until it is resumed by hand.
--
-- ARGV  1: JSON object: lane, reason, hold_ms (until the probe that never comes)
-- Returns 1 when the lane was not paused before, else 0
-- Atomic, so that a lane that pauses itself meanwhile is held, and tells of its pause once.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local key = KEY.lane .. args.lane
local lane = base.hash_of(key)
local fresh = not lane.paused_reason
-- `held` outlives late answers: a probe that was on its way neither resumes the lane nor has it
-- probed again.
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
return fresh and 1 or 0
