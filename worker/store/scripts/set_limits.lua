-- Change some of a lane's limits by hand; they hold over restarts of workers, until they are reset.
--
-- ARGV  1: JSON object: lane, limits (name -> number), by (who)
-- Returns 0
-- Atomic, so that a claim sees all of one change, and the lane is looked at under the new limits.

local args = cjson.decode(ARGV[1])
local now = now_ms()
local fields = { hand_by = args.by, hand_at_ms = now }
for name, value in pairs(args.limits) do
  fields['hand_' .. name] = value
end
put(KEY.lane .. args.lane, {}, fields)
redis.call('SADD', KEY.names, args.lane)
schedule_lane(args.lane, now, now) -- it may have been put off to what the old limits allowed
return 0
