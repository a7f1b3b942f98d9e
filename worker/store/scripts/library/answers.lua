-- Recording answers, several in one call; and what an answer shows to a lane's limiters and its ceiling.
--
-- needs: base, learning, ceiling, lanes

local function text_of(failure)
  return type(failure) == 'table' and failure.err or failure
end

-- Record each answer with `record_one` (answer, exact -> reply), and return the replies. An answer that fails
-- harms no other. If all fail, the server refuses, and so does the script.
local function record_each(all, record_one)
  local exact = base.exact_ms()
  local replies, failed, failure = {}, 0, nil
  for position, answer in ipairs(all) do
    local is_recorded, reply = pcall(record_one, answer, exact)
    if not is_recorded then
      failed, failure = failed + 1, reply
      reply = { error = text_of(reply) }
    end
    replies[position] = reply
  end
  if failed == #all then
    error(failure, 0)
  end
  lanes.save_opened()
  return replies
end

-- A start was accepted: what does that show about the lane's ceiling?
local function pass_ceiling(name, limiter, above, now)
  local key = KEY.lane .. name
  local ceiled, refuted = unpack(redis.call('HMGET', key, 'ceiling', 'ceiling_refuted'))
  if not (ceiled or refuted) then
    return
  end
  local lane = base.hash_of(key)
  if lane.ceiling_suspected and above then
    learning.believe(limiter, tonumber(lane.ceiling_rate), now)
  end
  base.put(key, lane, ceiling.pass_ceiling(lane, lanes.under_way(name), above, now))
end

-- A call got a complete answer: the lane is reachable, and this call was not throttled. `accepted`: the call
-- was a start, and its job exists now.
local function note_answer(name, args, now, accepted)
  if not args.answered then
    return
  end
  redis.call('HDEL', KEY.lane .. name, 'failures')
  local grant = lanes.parse_grant(args.grant)
  if not grant then
    return
  end
  local limiter = lanes.open_limiter(name, grant.class, now)
  learning.accept(limiter, grant.number, now)
  if accepted then
    pass_ceiling(name, limiter, grant.above, now)
  end
end

return {
  record_each = record_each,
  note_answer = note_answer,
}
