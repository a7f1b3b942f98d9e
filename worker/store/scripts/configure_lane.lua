-- Write a lane's known limits, as the operator configured them.
--
-- ARGV  1: JSON object: lane, limits (field -> number, or false to use the default)
-- Atomic, so that a claim sees all limits of one configuration.

local args = cjson.decode(ARGV[1])
local fields = args.limits
fields.limits_set_at_ms = false -- what was set by hand is no more
fields.limits_set_by = false
put(KEY.lane .. args.lane, {}, fields)
return 0
