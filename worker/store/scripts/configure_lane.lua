-- Write a lane's known limits, as the operator configured them.
--
-- ARGV  1: JSON object: lane, limits (field -> number, or false to use the default)
-- Atomic, so that a claim sees all limits of one configuration.

local args = cjson.decode(ARGV[1])
put(KEY.lane .. args.lane, {}, args.limits)
return 0
