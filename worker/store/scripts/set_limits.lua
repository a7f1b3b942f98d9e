-- Change some of a lane's limits by hand; they hold over restarts of workers, until they are reset.
--
-- ARGV  1: JSON object: lane, limits (name -> number), by (who)
-- Returns 0
-- Atomic, so that a claim sees all of one change, and the lane is looked at under the new limits.

local args = cjson.decode(ARGV[1])
local now = exact_ms()
local fields = { hand_by = args.by, hand_at_ms = math.floor(now) }
for name, value in pairs(args.limits) do
  fields['hand_' .. name] = value
end
put(KEY.lane .. args.lane, {}, fields)
redis.call('SADD', KEY.names, args.lane)
follow_limits(args.lane, hash_of(KEY.defaults), now)
return 0
