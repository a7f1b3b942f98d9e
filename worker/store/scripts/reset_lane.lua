-- Forget what was set by hand and what was learned of a lane: the configured limits hold, the others
-- are learned anew.
--
-- ARGV  1: JSON object: lane
-- Returns 0
-- Atomic, so that no claim sees half of it.

local args = cjson.decode(ARGV[1])
local now = now_ms()
local key = KEY.lane .. args.lane
local fields = { ceiling_refuted = false }
for name in pairs(NO_CEILING) do
  fields[name] = false
end
for _, name in ipairs(redis.call('HKEYS', key)) do
  if string.sub(name, 1, 5) == 'hand_' then
    fields[name] = false
  end
end
put(key, {}, fields)
for _, class in ipairs({ 'start', 'poll', 'shared' }) do
  redis.call('DEL', KEY.limiter .. args.lane .. ':' .. class)
end
schedule_lane(args.lane, now, now)
return 0
