-- Write the limits that the operator has configured: those of single lanes, and those of all others.
--
-- ARGV  1: JSON object: defaults and lanes (lane -> limits), limits being name -> number, by (who)
-- Returns the lanes, and '' for the defaults, whose configured limits were others before
-- Atomic, so that a claim sees all limits of one configuration. The last writer wins, and is shown.

local args = cjson.decode(ARGV[1])
local now = exact_ms()
local changed = {}
local NAMES = {
  'start_rate', 'start_burst', 'poll_rate', 'poll_burst', 'shared_rate', 'shared_burst', 'shared',
  'start_share', 'max_running',
}

-- Write `limits` and nothing else to a hash; say whether that changes them.
local function configure(key, before, limits)
  local fields = { configured_by = args.by, configured_at_ms = math.floor(now) }
  local differs = false
  for _, name in ipairs(NAMES) do
    fields[name] = limits[name] or false
    differs = differs or tonumber(before[name]) ~= limits[name]
  end
  local after = {}
  for name, value in pairs(before) do
    after[name] = value
  end
  put(key, after, fields)
  return after, differs
end

local defaults_before = hash_of(KEY.defaults)
local defaults, differ = configure(KEY.defaults, defaults_before, args.defaults)
if differ then
  changed[1] = ''
end
for name in pairs(args.lanes) do
  redis.call('SADD', KEY.names, name)
end
for _, name in ipairs(redis.call('SMEMBERS', KEY.names)) do
  local before = hash_of(KEY.lane .. name)
  local after, differs = before, false
  if args.lanes[name] or before.configured_by then
    after, differs = configure(KEY.lane .. name, before, args.lanes[name] or {})
  end
  if differs then
    changed[#changed + 1] = name
  end
  if differs or differ then
    follow_limits(name, before, defaults_before, after, defaults, now)
  end
end
return changed
