-- How many calls a lane may make now, how they are divided, and when the next one is due.
--
-- needs: base, limiters, ceiling, lanes, facts

local function first_score(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

-- The limiters of a lane's starts and polls; the same one twice if they share a limit.
local function load_limiters(lane_name, lane, defaults, exact)
  if lanes.is_shared(lane, defaults) then
    local limiter = lanes.load_limiter(lane_name, lane, defaults, 'shared', exact)
    return limiter, limiter
  end
  return lanes.load_limiter(lane_name, lane, defaults, 'start', exact),
    lanes.load_limiter(lane_name, lane, defaults, 'poll', exact)
end

local function save_limiters(start, poll)
  lanes.save_limiter(start)
  if poll ~= start then
    lanes.save_limiter(poll)
  end
end

-- How many more jobs may be unfinished, whether that exceeds the ceiling, how many there might be without a
-- ceiling, and until when the lane is still unknown.
local function room_for_jobs(lane_name, lane, defaults, known, now)
  local unfinished = lanes.under_way(lane_name)
  local allowed = math.max(0, (lanes.limit_of(lane, defaults, 'max_running') or math.huge) - unfinished)
  local room, above = ceiling.room_under(lane, unfinished, now)
  local pioneers, until_ms = facts.room(known, lane, unfinished, now)
  if until_ms < math.huge then
    base.put(KEY.lane .. lane_name, lane, { learning_from_ms = lane.learning_from_ms or now })
  end
  return math.min(room, allowed, pioneers), above, math.min(allowed, pioneers), until_ms
end

-- When the next poll can be made: as soon as permitted if one is due already, otherwise together with those
-- that are due soon after it.
local function next_poll(lane_name, limiter)
  local due = math.min(first_score(KEY.polls .. lane_name) or math.huge,
    first_score(KEY.late .. lane_name) or math.huge)
  if due <= limiter.filled_at then
    return limiters.ready_at(limiter, math.huge)
  end
  return math.max(due, limiter.filled_at + 1000 * limiters.GATHER_SECONDS, limiters.ready_at(limiter))
end

-- Note whether imports wait for a place under max_running or the ceiling (queues.free_place).
local function note_crowd(lane_name, lane, is_crowded)
  if is_crowded ~= (lane.crowded ~= nil) then
    base.put(KEY.lane .. lane_name, lane, { crowded = is_crowded and 1 })
  end
end

-- When the lane can make its next call, as far as its limits show.
local function next_call(lane_name, lane, start, poll, waiting, room, allowed, until_ms)
  note_crowd(lane_name, lane, waiting > 0 and room <= 0)
  local due = math.min(first_score(KEY.delayed .. lane_name) or math.huge, next_poll(lane_name, poll))
  if waiting > 0 and room > 0 then
    due = math.min(due, limiters.ready_at(start, math.min(waiting, room)))
  elseif waiting > 0 and allowed > 0 then -- there is a ceiling
    due = math.min(due, math.max(tonumber(lane.ceiling_try_at_ms), limiters.ready_at(start)))
  elseif waiting > 0 then
    due = math.min(due, until_ms)
  end
  return due
end

-- Divide `most` calls between the polls and starts that are due. Over time, starts get their share, to within
-- one call. Calls that one kind does not need go to the other. Returns polls, starts.
local function divide(lane_name, lane, most, polls, starts, share)
  if polls + starts <= most or math.min(most, polls, starts) == 0 then
    return math.min(polls, most), math.min(starts, most)
  end
  local credit = tonumber(lane.start_credit or 0)
  local least = math.max(0, most - polls)
  local granted = limiters.clamp(math.floor(share * most + credit), least, math.min(starts, most))
  credit = limiters.clamp(credit + share * most - granted, -1, 1)
  base.put(KEY.lane .. lane_name, lane, { start_credit = credit })
  return most - granted, granted
end

-- Note whether the limiter is what delays calls.
local function note_demand(limiter, due, taken)
  limiter.limited = due > taken and limiters.available(limiter) == 0 and 1 or 0
end

return {
  first_score = first_score,
  load_limiters = load_limiters,
  save_limiters = save_limiters,
  room_for_jobs = room_for_jobs,
  next_call = next_call,
  divide = divide,
  note_demand = note_demand,
}
