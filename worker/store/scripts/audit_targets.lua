-- Read targets: which import holds them, and which one waits for them first.
--
-- ARGV  1: JSON object: targets (their names: lane/target)
-- Returns JSON: targets (for each its holder, pttl, first (the import id that is parked first), and some of
--       the holder's record; missing values are absent)
-- Atomic, so that a target and its holder are read at one moment. It only reads.
--
-- needs: records

local args = cjson.decode(ARGV[1])
local FIELDS = { 'state', 'doubts', 'account', 'region', 'app_id', 'backend_environment_name' }

local function facts_of(target)
  local key = KEY.target .. target
  local seen = { holder = redis.call('HGET', key, 'holder') or nil, pttl = redis.call('PTTL', key) }
  seen.first = redis.call('ZRANGE', KEY.parked .. target, 0, 0)[1]
  if seen.holder then
    seen.record = records.read_some(seen.holder, FIELDS)
  end
  return seen
end

local found = {}
for number, target in ipairs(args.targets) do
  found[number] = facts_of(target)
end
return cjson.encode({ targets = found })
