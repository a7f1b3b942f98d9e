-- Claim calls that are due and that the lanes' limits allow now; a claim is a lease and a grant.
--
-- ARGV  1: JSON object: limit (claims at most), lanes (lanes looked at, at most), lease_ms, slots (calls
--       that the conductor could carry beside those on the way), in_flight (lane -> calls on the way)
-- Returns {wait_ms, claim...}: the time until something falls due (-1: nothing is scheduled), and
--       per claim {call, id, lease, age_ms, probe, grant, earlier_job_id, record as a flat list}
-- Atomic, so that any number of conductors claim each call once and spend each token once.

local args = cjson.decode(ARGV[1])
local exact = exact_ms()
local now = math.floor(exact)
local defaults = hash_of(KEY.defaults)
local claims = {}
local PASSED_AT_ONCE = 200 -- imports that are taken from a lane's queue without being started
local STAND_BACK_MS = 1000 -- how long what only later releases know is left to their workers
local SHARE = 0.5 -- the part of starts where starts and polls share something, unless configured
local PROBES_TRIED = 20 -- imports that stood back and are looked at for a probe
local tidied = 200 -- silent claims and delayed imports that may still be moved: others want to be served

local function claim(lane_name, call, id, record, grant, probe)
  local lease = string.format('%.0f', redis.call('INCR', KEY.sequence))
  record.lease = lease
  redis.call('ZADD', KEY.leases .. lane_name, now + args.lease_ms, id)
  redis.call('HSET', KEY.import .. id, 'lease', lease)
  local flat = {}
  for name, value in pairs(record) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  claims[#claims + 1] = {
    call, id, lease, now - tonumber(record.first_start_at_ms or now), probe and 1 or 0, grant,
    redis.call('HGET', KEY.target .. target_of(record), 'last_job') or '', flat,
  }
end

-- The record of a queued import; one that somebody deleted must not stop the rest of its lane.
local function known(id, queue)
  local record = hash_of(KEY.import .. id)
  if record.state then
    return record
  end
  redis.call('ZREM', queue, id)
  return nil
end

-- Whether this release knows the record's format; records of a later one are its workers' to carry on.
local function is_readable(record)
  return tonumber(record.format or 1) <= CONFIG.format
end

-- Claims that fell silent: a start is in doubt, a poll is simply due again.
local function reclaim(lane_name)
  local silent = redis.call('ZRANGEBYSCORE', KEY.leases .. lane_name, '-inf', now, 'LIMIT', 0, tidied)
  tidied = tidied - #silent
  for _, id in ipairs(silent) do
    local record = known(id, KEY.leases .. lane_name)
    if record and not is_readable(record) then
      redis.call('ZADD', KEY.leases .. lane_name, now + STAND_BACK_MS, id)
    elseif record then
      local fields = {}
      if not TERMINAL[record.state] then
        note(id, now, 'silent',
          { call = record.doubt and 'reconcile' or record.state == 'running' and 'poll' or 'start' })
      end
      if record.state == 'starting' and not record.doubt then
        fields = { doubt = 'unknown', doubt_error = 'the worker fell silent during the call',
          doubts = tonumber(record.doubts or 0) + 1 }
      end
      give_back(id, record, now + (fields.doubt and CONFIG.settle_ms or 0), fields)
    end
  end
end

-- Let imports wait in their lane again that were delayed until `latest`, `most` of them.
local function promote_delayed(lane_name, latest, most)
  local due = redis.call('ZRANGEBYSCORE', KEY.delayed .. lane_name, '-inf', latest, 'LIMIT', 0, most)
  tidied = math.max(0, tidied - #due)
  for _, id in ipairs(due) do
    local record = known(id, KEY.delayed .. lane_name)
    if record then
      redis.call('ZREM', KEY.delayed .. lane_name, id)
      requeue(id, record)
    end
  end
  return #due > 0
end

local function claim_polls(queue, lane_name, limiter, most, probe)
  local due = redis.call('ZRANGEBYSCORE', queue .. lane_name, '-inf', now, 'LIMIT', 0, most)
  local taken = 0
  for _, id in ipairs(due) do
    local record = known(id, queue .. lane_name)
    if record and not is_readable(record) then
      redis.call('ZADD', queue .. lane_name, now + STAND_BACK_MS, id)
    elseif record then
      redis.call('ZREM', queue .. lane_name, id)
      local grant = grant_text(limiter, grant_call(limiter))
      claim(lane_name, record.doubt and 'reconcile' or 'poll', id, record, grant, probe)
      taken = taken + 1
    end
  end
  return taken
end

-- Whether an import that was taken out of its lane's queue may start now. One that may not waits
-- elsewhere: for its target, which one import at a time holds, or until its batch goes on.
local function may_start(id, record, queue)
  if not record.state then
    return false -- somebody deleted it
  elseif not is_readable(record) then
    redis.call('ZADD', KEY.delayed .. queue.name, now + STAND_BACK_MS, id)
    return false
  end
  local target = target_of(record)
  local holder = redis.call('HGET', KEY.target .. target, 'holder')
  if holder == id then
    return true -- a doubt is resolved, and it goes on as it began
  elseif is_stopped(record) then
    hold(id, record, now)
    local priority = not holder and unpark(target)
    if priority then -- nobody else would let those pass that wait for the target
      grow_queue(queue, priority)
    end
    return false
  elseif holder then
    note(id, now, 'parked', { holder = holder })
    local rank = ({ high = 0, normal = 1, low = 2 })[record.priority]
    redis.call('ZADD', KEY.parked .. target, rank * 1e14 + tonumber(record.sequence), id)
    return false
  end
  redis.call('HSET', KEY.target .. target, 'holder', id)
  redis.call('PERSIST', KEY.target .. target)
  return true
end

local function claim_starts(queue, limiter, most, above, probe)
  local taken, passed = 0, 0
  while taken < most and passed < PASSED_AT_ONCE do
    local id = pop_waiting(queue)
    if not id then
      break
    end
    local record = hash_of(KEY.import .. id)
    local may = may_start(id, record, queue)
    if may and record.doubt then -- it may have been started before the store was lost: ask first
      count_batch(record, 'waiting', 'starting')
      redis.call('HSET', KEY.import .. id, 'state', 'starting')
      note(id, now, 'doubt', { doubt = record.doubt, error = record.doubt_error })
      redis.call('ZADD', KEY.polls .. queue.name, now, id)
      passed = passed + 1
    elseif may then
      put(KEY.import .. id, record, {
        state = 'starting',
        attempts = tonumber(record.attempts or 0) + 1,
        first_start_at_ms = record.first_start_at_ms or now,
      })
      note(id, now, 'start', { attempt = tonumber(record.attempts) })
      count_batch(record, 'waiting', 'starting')
      claim(queue.name, 'start', id, record, grant_text(limiter, grant_call(limiter), above), probe)
      taken = taken + 1
    else
      passed = passed + 1
    end
  end
  return taken
end

local function first_score(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

local function load_limiters(lane_name, lane)
  if is_shared(lane, defaults) then
    local limiter = load_limiter(lane_name, lane, defaults, 'shared', exact)
    return limiter, limiter
  end
  return load_limiter(lane_name, lane, defaults, 'start', exact),
    load_limiter(lane_name, lane, defaults, 'poll', exact)
end

local function save_limiters(start, poll)
  save_limiter(start)
  if poll ~= start then
    save_limiter(poll)
  end
end

-- How many more jobs may be under way, whether that goes above the ceiling, and how many there might be
-- without one.
local function room_for_jobs(lane_name, lane)
  local unfinished = under_way(lane_name)
  local allowed = math.max(0, (limit_of(lane, defaults, 'max_running') or math.huge) - unfinished)
  local room, above = room_under(lane, unfinished, now)
  return math.min(room, allowed), above, allowed
end

-- When the lane can make its next call, as far as its limits tell.
local function next_call(lane_name, lane, start, poll, waiting, room, allowed)
  local due = first_score(KEY.delayed .. lane_name) or math.huge
  local next_poll = math.min(first_score(KEY.polls .. lane_name) or math.huge,
    first_score(KEY.late .. lane_name) or math.huge)
  if next_poll < math.huge then
    due = math.min(due, math.max(next_poll, ready_at(poll)))
  end
  if waiting > 0 and room > 0 then
    due = math.min(due, ready_at(start))
  elseif waiting > 0 and allowed > 0 then -- there is a ceiling
    due = math.min(due, math.max(tonumber(lane.ceiling_try_at_ms), ready_at(start)))
  end
  return due
end

-- A paused lane lets one call through when its time has come: the probe that may reopen it.
local function claim_probe(lane_name, lane)
  local due = tonumber(lane.paused_until_ms)
  if due > now then
    return due
  end
  local start, poll = load_limiters(lane_name, lane)
  local queue = open_queue(lane_name, lane)
  local room, above, allowed = room_for_jobs(lane_name, lane)
  local function probed()
    return claim_polls(KEY.polls, lane_name, poll, math.min(1, available(poll)), true) > 0
      or claim_starts(queue, start, math.min(1, available(start), room), above, true) > 0
      or claim_polls(KEY.late, lane_name, poll, math.min(1, available(poll)), true) > 0
  end
  local found = probed()
  for _ = 1, PROBES_TRIED do
    -- Imports that failed as probes stand back for others; where there is no other, they try again.
    if found or queue.size > 0 or not promote_delayed(lane_name, '+inf', 1) then
      break
    end
    close_queue(queue, lane)
    queue = open_queue(lane_name, lane)
    found = probed()
  end
  close_queue(queue, lane)
  save_limiters(start, poll)
  if found then
    redis.call('HSET', KEY.lane .. lane_name, 'paused_until_ms', now + args.lease_ms)
    return now + args.lease_ms
  end
  return next_call(lane_name, lane, start, poll, queue.size, room, allowed)
end

-- Divide `most` calls between those that are due: starts get their share, to a call over time; what one
-- of the two does not need is the other's. Returns polls, starts.
local function divide(lane_name, lane, most, polls, starts, share)
  if polls + starts <= most or math.min(most, polls, starts) == 0 then
    return math.min(polls, most), math.min(starts, most)
  end
  local credit = tonumber(lane.start_credit or 0)
  local granted = clamp(math.floor(share * most + credit), math.max(0, most - polls), math.min(starts, most))
  put(KEY.lane .. lane_name, lane, { start_credit = clamp(credit + share * most - granted, -1, 1) })
  return most - granted, granted
end

-- Take note of whether a limiter was what held calls back.
local function note_demand(limiter, due, taken)
  limiter.limited = due > taken and available(limiter) == 0 and 1 or 0
end

local function claim_within_limits(lane_name, lane, most)
  local start, poll = load_limiters(lane_name, lane)
  local queue = open_queue(lane_name, lane)
  local room, above, allowed = room_for_jobs(lane_name, lane)
  local polls_due = redis.call('ZCOUNT', KEY.polls .. lane_name, '-inf', now)
  local starts_due = math.min(queue.size, room)
  local polls, starts
  if start == poll then
    local share = limit_of(lane, defaults, 'start_share') or SHARE
    polls, starts = divide(lane_name, lane, math.min(available(start), most), polls_due, starts_due, share)
  else
    polls, starts = math.min(polls_due, available(poll)), math.min(starts_due, available(start))
    polls, starts = divide(lane_name, lane, most, polls, starts, SHARE)
  end

  polls = claim_polls(KEY.polls, lane_name, poll, polls)
  starts = claim_starts(queue, start, starts, above)
  -- Ended imports get what is left over.
  local late = claim_polls(KEY.late, lane_name, poll, math.min(available(poll), most - polls - starts))
  close_queue(queue, lane)
  if above and starts > 0 then
    put(KEY.lane .. lane_name, lane, try_above(lane, now))
  end
  starts_due = math.min(queue.size + starts, starts_due)
  if start == poll then
    note_demand(start, polls_due + starts_due, polls + starts + late)
  else
    note_demand(start, starts_due, starts)
    note_demand(poll, polls_due, polls)
  end
  save_limiters(start, poll)

  return next_call(lane_name, lane, start, poll, queue.size, room - starts, allowed - starts)
end

-- How many calls one lane may add to those on the way. Slots are divided by dynamic thresholds
-- (Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998): a lane may hold as many as stay
-- free, so that one that nobody answers never takes all of them.
local function slots_for(lane_name, left)
  local held = args.in_flight[lane_name] or 0
  local room = math.floor((args.slots - #claims - held) / 2)
  return math.min(left, math.max(room, held == 0 and 1 or 0))
end

require_memory() -- else calls would be made whose answers can't be recorded
release_held(now)
local names = redis.call('ZRANGEBYSCORE', KEY.lanes, '-inf', exact, 'LIMIT', 0, args.lanes)
for position, name in ipairs(names) do
  local left = args.limit - #claims
  if left <= 0 then
    break
  end
  local lane = hash_of(KEY.lane .. name)
  reclaim(name)
  promote_delayed(name, now, math.min(tidied, args.limit))
  local due
  if lane.paused_reason then
    due = claim_probe(name, lane)
  else
    -- Lanes that are due together share what this conductor can carry.
    local most = slots_for(name, math.ceil(left / (#names - position + 1)))
    if most > 0 then
      due = claim_within_limits(name, lane, most)
    else
      due = now + 50 -- looked at again when this conductor has less on the way; another may have room
    end
  end
  due = math.min(due or math.huge, first_score(KEY.leases .. name) or math.huge)
  if due == math.huge then
    redis.call('ZREM', KEY.lanes, name)
  else
    redis.call('ZADD', KEY.lanes, math.max(due, exact), name) -- behind those that were not looked at
  end
end

local next_due = first_score(KEY.lanes)
if next_due and next_due <= exact and #claims > 0 then
  wake() -- more is due than this conductor took: let another one look
end
table.insert(claims, 1, next_due and math.max(0, math.ceil(next_due - exact)) or -1)
return claims
