-- Keep what a lane has shown of AWS.
--
-- ARGV  1: JSON object: lane, facts (fields of the hash; see worker/domain/facts.py)
-- Returns 1
-- Atomic, so that what two workers learn at once adds up.
--
-- needs: base, facts

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
facts.learn(args.lane, args.facts)
base.schedule_lane(args.lane, now, now) -- its first imports were waited for
return 1
