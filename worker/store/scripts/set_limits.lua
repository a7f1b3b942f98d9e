-- Set limits of a lane for an operator. They apply until they are reset, even after workers restart.
--
-- ARGV  1: JSON object: lane, limits (name -> number), by (who)
-- Returns JSON: {}
-- Atomic, so that a claim sees all limits of one change, and the lane follows the new limits at once.
--
-- needs: base, lanes

local args = cjson.decode(ARGV[1])
local now = base.exact_ms()
local fields = { hand_by = args.by, hand_at_ms = math.floor(now) }
for name, value in pairs(args.limits) do
  fields['hand_' .. name] = value
end
base.put(KEY.lane .. args.lane, {}, fields)
redis.call('SADD', KEY.names, args.lane)
lanes.follow_limits(args.lane, base.hash_of(KEY.defaults), now)
return '{}'
