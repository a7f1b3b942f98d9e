-- Forget what was set by hand and what was learned of a lane: the configured limits hold, the others
-- are learned anew.
--
-- ARGV  1: JSON object: lane
-- Returns 0
-- Atomic, so that no claim sees half of it.

local args = cjson.decode(ARGV[1])
local now = exact_ms()
local key = KEY.lane .. args.lane
local lane = hash_of(key)
local fields = { ceiling_refuted = false }
for name in pairs(NO_CEILING) do
  fields[name] = false
end
for name in pairs(lane) do
  if string.sub(name, 1, 5) == 'hand_' then
    fields[name] = false
  end
end
put(key, lane, fields)
follow_limits(args.lane, hash_of(KEY.defaults), now, true)
return 0
