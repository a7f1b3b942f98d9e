-- What an answer shows to a lane's limiters and its ceiling.
--
-- needs: base, learning, ceiling, lanes

-- A call got a complete answer: the lane is reachable, and this call was not throttled. `accepted`: the call
-- was a start, and its job exists now.
local function note_answer(name, args, now, accepted)
  if not args.answered then
    return
  end
  local key = KEY.lane .. name
  local lane = base.hash_of(key)
  if lane.failures then
    redis.call('HDEL', key, 'failures')
  end
  local grant = lanes.parse_grant(args.grant)
  if not grant then
    return
  end
  local limiter = lanes.load_limiter(name, lane, base.hash_of(KEY.defaults), grant.class, now)
  learning.accept(limiter, grant.number, now)
  if accepted and (lane.ceiling or lane.ceiling_refuted) then
    if lane.ceiling_suspected and grant.above then
      learning.believe(limiter, tonumber(lane.ceiling_rate), now)
    end
    base.put(key, lane, ceiling.pass_ceiling(lane, lanes.under_way(name), grant.above, now))
  end
  lanes.save_limiter(limiter)
end

return {
  note_answer = note_answer,
}
