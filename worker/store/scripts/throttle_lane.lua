-- The remote side said 429: let the limiter learn from it, or the ceiling where jobs are too many.
--
-- ARGV  1: JSON object: lane, call, grant (of the call that was throttled), retry_after_ms (0: not
--       said), limit_type, concurrent (whether it says that too many jobs are unfinished)
-- Returns {counted, what is kept now (a text for people)}: counted is 1 unless it is part of a storm
--       that was counted already
-- Atomic, so that many late answers to calls sent before the last adjustment count as one.
--
-- needs: base, limiters, learning, ceiling, lanes

local args = cjson.decode(ARGV[1])
local now = base.exact_ms()
local key = KEY.lane .. args.lane
local lane = base.hash_of(key)
local grant = lanes.parse_grant(args.grant)
local counted, kept = false, ''
redis.call('HINCRBY', key, 'throttled', 1)
base.put(key, lane, { last_429_at_ms = math.floor(now), last_429_limit_type = args.limit_type,
  last_429_call = args.call, failures = false })
if grant then
  local limiter = lanes.load_limiter(args.lane, lane, base.hash_of(KEY.defaults), grant.class, now)
  local others = lanes.under_way(args.lane) - 1
  if args.concurrent then
    base.put(key, lane, { ceiling_suspected = false, ceiling_rate = false })
    base.put(key, lane, ceiling.meet_ceiling(lane, others, grant.above, now))
    limiter.blocked_until = math.max(limiter.blocked_until, now + args.retry_after_ms)
    counted, kept = true, others .. ' unfinished jobs at most'
  else
    counted = learning.refuse(limiter, grant, args.retry_after_ms, now)
    if lane.ceiling_suspected and not grant.above and counted then
      learning.believe(limiter, tonumber(lane.ceiling_rate), now)
      base.put(key, lane, ceiling.NO_CEILING)
      base.put(key, lane, { ceiling_refuted = 1 })
    end
    kept = string.format('%.3g/s', limiters.pace_of(limiter))
    local suspected = args.call == 'start' and limiter.steady > 0
      and ceiling.suspect_ceiling(lane, limiter.streak, limiter.rate, others, now)
    if suspected then
      base.put(key, lane, suspected)
      learning.believe(limiter, limiter.streak_rate, now)
      kept = others .. ' unfinished jobs at most, as it seems'
    end
  end
  lanes.save_limiter(limiter)
end
base.schedule_lane(args.lane, math.floor(now), math.floor(now))
return { counted and 1 or 0, kept }
