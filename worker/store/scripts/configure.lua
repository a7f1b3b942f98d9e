-- Write the limits that the operator has configured: those of single lanes, and the defaults.
--
-- ARGV  1: JSON object: defaults (limit -> number), lanes (lane -> limits of the same kind), limits (the
--       names of all limits), by (who)
-- Returns JSON: changed (the lanes whose configured limits have changed, '' for the defaults; {} if it is
--       empty)
-- Atomic, so that a claim sees all limits of one configuration. The last writer wins, and is shown.
--
-- needs: base, lanes

local args = cjson.decode(ARGV[1])
local now = base.exact_ms()
local changed = {}

-- Write exactly these limits to a hash; note whether that changes them.
local function configure(name, key, limits)
  local before = base.hash_of(key)
  local fields = { configured_by = args.by, configured_at_ms = math.floor(now) }
  local differs = false
  for _, limit in ipairs(args.limits) do
    fields[limit] = limits[limit] or false
    differs = differs or tonumber(before[limit]) ~= limits[limit]
  end
  base.put(key, before, fields)
  if differs then
    changed[#changed + 1] = name
  end
end

configure('', KEY.defaults, args.defaults)
for name in pairs(args.lanes) do
  redis.call('SADD', KEY.names, name)
end
for _, name in ipairs(redis.call('SMEMBERS', KEY.names)) do
  if args.lanes[name] or redis.call('HEXISTS', KEY.lane .. name, 'configured_by') == 1 then
    configure(name, KEY.lane .. name, args.lanes[name] or {})
  end
end
if #changed > 0 then
  local defaults = base.hash_of(KEY.defaults)
  for _, name in ipairs(redis.call('SMEMBERS', KEY.names)) do
    lanes.follow_limits(name, defaults, now)
  end
end
return cjson.encode({ changed = changed })
