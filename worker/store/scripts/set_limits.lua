-- Change some of a lane's known limits by hand; the others stay as they are.
--
-- ARGV  1: JSON object: lane, limits (field -> number), set_by
-- Returns 0
-- Atomic, so that a claim sees all of one change, and the lane is looked at under the new limits.

local args = cjson.decode(ARGV[1])
local now = now_ms()
local fields = args.limits
fields.limits_set_at_ms = now
fields.limits_set_by = args.set_by
put(KEY.lane .. args.lane, {}, fields)
schedule_lane(args.lane, now, now) -- it may be put off to what the old limits allowed
return 0
