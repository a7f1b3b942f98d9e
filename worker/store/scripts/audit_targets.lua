-- Look at targets: who holds them, and who waits for them.
--
-- ARGV  1: JSON object: targets (their names: lane/target)
-- Returns for each a JSON object with holder, pttl, first (import id that is parked first), and some of the
--       holder's record; what is not there is absent
-- Atomic, so that a target and its holder are seen in one moment. It only reads.

local args = cjson.decode(ARGV[1])
local FIELDS = { 'state', 'doubts', 'account', 'region', 'app_id', 'backend_environment_name' }

local function facts_of(target)
  local key = KEY.target .. target
  local seen = { holder = redis.call('HGET', key, 'holder') or nil, pttl = redis.call('PTTL', key) }
  seen.first = redis.call('ZRANGE', KEY.parked .. target, 0, 0)[1]
  if seen.holder then
    seen.record = {}
    for i, value in ipairs(redis.call('HMGET', KEY.import .. seen.holder, unpack(FIELDS))) do
      seen.record[FIELDS[i]] = value or nil
    end
  end
  return seen
end

local reply = {}
for i, target in ipairs(args.targets) do
  reply[i] = cjson.encode(facts_of(target))
end
return reply
