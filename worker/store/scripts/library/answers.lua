-- What an answer tells the limiters and the ceiling of a lane.

-- A call was answered in full: the lane is reachable, and this call was not throttled. `accepted`: it was
-- a start, and there is a job now.
local function note_answer(name, args, now, accepted)
  if not args.answered then
    return
  end
  local key = KEY.lane .. name
  local lane = hash_of(key)
  if lane.failures then
    redis.call('HDEL', key, 'failures')
  end
  local grant = parse_grant(args.grant)
  if not grant then
    return
  end
  local limiter = load_limiter(name, lane, hash_of(KEY.defaults), grant.class, now)
  accept(limiter, grant.number, now)
  if accepted and (lane.ceiling or lane.ceiling_refuted) then
    if lane.ceiling_suspected and grant.above then
      believe(limiter, tonumber(lane.ceiling_rate), now)
    end
    put(key, lane, pass_ceiling(lane, under_way(name), grant.above, now))
  end
  save_limiter(limiter)
end
