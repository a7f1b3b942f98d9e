-- A lane's health: what an answer shows about the whole lane.
--
-- needs: base, limiters, learning, ceiling, lanes, facts

-- Pause a lane, or keep it paused after a failed probe. `why`: reason, probe (whether the failed call was
-- one), delay_ms (to the first probe), delay_max_ms (to any probe). Returns whether it was not paused before.
local function pause(name, why, now)
  local key = KEY.lane .. name
  local lane = base.hash_of(key)
  if lane.held then
    return false -- the call is older than an operator's pause, which keeps its reason and has no probes
  end
  local probes = tonumber(lane.probes or 0)
  local fresh = not lane.paused_reason
  local fields = { paused_reason = why.reason }
  if fresh then
    fields.paused_at_ms = now
    fields.probes = 0
    fields.pauses = tonumber(lane.pauses or 0) + 1
    fields.paused_until_ms = now + why.delay_ms
  elseif why.probe then
    fields.probes = probes + 1
    fields.paused_until_ms = now + math.min(why.delay_ms * 2 ^ math.min(probes + 1, 16), why.delay_max_ms)
  end
  base.put(key, lane, fields)
  redis.call('ZADD', KEY.lanes, 'LT', tonumber(lane.paused_until_ms), name)
  if fresh then
    base.append_event('lane.paused', name .. '/paused/' .. lane.pauses, name, now,
      { lane = name, reason = why.reason, probeAt = base.iso_time(tonumber(lane.paused_until_ms)) })
  end
  return fresh
end

-- Reopen a paused lane. If an operator paused it, only `by_operator`. Returns whether it was resumed.
local function resume(name, now, by_operator)
  local key = KEY.lane .. name
  local lane = base.hash_of(key)
  if not lane.paused_reason or (lane.held and not by_operator) then
    return false
  end
  base.put(key, lane, { paused_reason = false, paused_at_ms = false, paused_until_ms = false,
    probes = false, failures = false, held = false })
  base.append_event('lane.resumed', name .. '/resumed/' .. lane.pauses, name, now, { lane = name })
  base.schedule_lane(name, now, now)
  return true
end

-- Let the limiter learn from a 429, or the ceiling if it is `concurrent`: too many jobs are unfinished.
-- Returns what the lane keeps to from now on. A 429 of a burst that was counted already is not `counted`.
local function throttle(name, call, grant, refusal, now)
  local key = KEY.lane .. name
  local lane = base.hash_of(key)
  local kept = { counted = false }
  redis.call('HINCRBY', key, 'throttled', 1)
  base.put(key, lane, { last_429_at_ms = math.floor(now), last_429_limit_type = refusal.limit_type,
    last_429_call = call, failures = false })
  if grant then
    local limiter = lanes.open_limiter(name, grant.class, now)
    local others = lanes.under_way(name) - 1
    if refusal.concurrent then
      base.put(key, lane, { ceiling_suspected = false, ceiling_rate = false })
      base.put(key, lane, ceiling.meet_ceiling(lane, others, grant.above, now))
      limiter.blocked_until = math.max(limiter.blocked_until, now + refusal.retry_after_ms)
      kept = { counted = true, ceiling = others }
    else
      kept.counted = learning.refuse(limiter, grant, refusal.retry_after_ms, now)
      if lane.ceiling_suspected and not grant.above and kept.counted then
        learning.believe(limiter, tonumber(lane.ceiling_rate), now)
        base.put(key, lane, ceiling.NO_CEILING)
        base.put(key, lane, { ceiling_refuted = 1 })
      end
      kept.rate = limiters.pace_of(limiter)
      local suspected = call == 'start' and limiter.steady > 0
        and ceiling.suspect_ceiling(lane, limiter.streak, limiter.rate, others, now)
      if suspected then
        base.put(key, lane, suspected)
        learning.believe(limiter, limiter.streak_rate, now)
        kept.ceiling, kept.suspected = others, true
      end
    end
  end
  base.schedule_lane(name, math.floor(now), math.floor(now))
  return kept
end

-- Record what an answer shows about its lane, also if the claim is no longer the caller's. All members of
-- `observed` may be absent:
--   facts           what the lane has shown of AWS (worker/domain/facts.py)
--   failure         the weight of a call without an answer
--   pause_at        the lane pauses at this sum of weights in a row
--   pause           how it pauses: see above
--   probe_answered  whether the lane resumes
--   throttle        for a 429: retry_after_ms (0: none), limit_type, concurrent
-- Returns the beginning of the reply of a script for an answer, and whether no call in the lane is answered.
local function note(args, exact)
  local now, observed = math.floor(exact), args.observed
  local reply = { held = false, paused = false, resumed = false, throttled = cjson.null }
  if observed.facts then
    facts.learn(args.lane, observed.facts)
    base.schedule_lane(args.lane, now, now) -- other imports have waited for its first ones
  end
  local failures = 0
  if observed.failure then
    failures = redis.call('HINCRBY', KEY.lane .. args.lane, 'failures', observed.failure)
  end
  local pauses = failures >= (observed.pause_at or math.huge)
  if pauses then
    reply.paused = pause(args.lane, observed.pause, now)
  elseif observed.probe_answered then
    reply.resumed = resume(args.lane, now)
  end
  if observed.throttle then
    local grant = lanes.parse_grant(args.grant)
    reply.throttled = throttle(args.lane, args.call, grant, observed.throttle, exact)
  end
  return reply, pauses
end

return {
  resume = resume,
  note = note,
}
