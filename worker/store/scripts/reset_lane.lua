-- Forget the limits of a lane that operators set, and what workers learned: the configured limits apply,
-- others are learned anew, and so is what the lane has shown of AWS.
--
-- ARGV  1: JSON object: lane
-- Returns JSON: {}
-- Atomic, so that no claim sees half of it.
--
-- needs: base, ceiling, lanes

local args = cjson.decode(ARGV[1])
local now = base.exact_ms()
local key = KEY.lane .. args.lane
local lane = base.hash_of(key)
redis.call('DEL', KEY.facts .. args.lane)
local fields = { ceiling_refuted = false, learning_from_ms = false }
for name in pairs(ceiling.NO_CEILING) do
  fields[name] = false
end
for name in pairs(lane) do
  if string.sub(name, 1, 5) == 'hand_' then
    fields[name] = false
  end
end
base.put(key, lane, fields)
lanes.follow_limits(args.lane, base.hash_of(KEY.defaults), now, true)
return '{}'
