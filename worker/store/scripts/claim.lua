-- Claim calls that are due and that the lanes' limits allow now; a claim is a lease and a grant.
--
-- ARGV  1: JSON object: limit (claims at most), lanes (lanes looked at, at most), lease_ms, slots (calls
--       that the conductor could carry beside those on the way), in_flight (lane -> calls on the way)
-- Returns {wait_ms, facts, claim...}: the time until something falls due (-1: nothing is scheduled),
--       what the claims' lanes have shown, as a flat list of lane and flat list of fields, and per
--       claim {call, id, lease, age_ms, probe, grant, earlier_jobs (JSON list of the jobs of the
--       target's earlier imports), record as a flat list}
-- Atomic, so that any number of conductors claim each call once and spend each token once.
--
-- needs: base, history, limiters, ceiling, lanes, facts, queues, batches, imports

local args = cjson.decode(ARGV[1])
local exact = base.exact_ms()
local now = math.floor(exact)
local defaults = base.hash_of(KEY.defaults)
local claims = {}
local known_of = {} -- lane -> what it has shown of AWS, as far as it was looked at
local PASSED_AT_ONCE = 200 -- imports that are taken from a lane's queue without being started
local EXPIRED_AT_ONCE = 50
local STAND_BACK_MS = 1000 -- how long what only later releases know is left to their workers
local SHARE = 0.5 -- the part of starts where starts and polls share something, unless configured
local PROBES_TRIED = 20 -- imports that stood back and are looked at for a probe
local tidied = 200 -- silent claims and delayed imports that may still be moved: others want to be served

local function known_facts(lane_name)
  known_of[lane_name] = known_of[lane_name] or facts.of(lane_name)
  return known_of[lane_name]
end

local function earlier_jobs(target)
  local jobs, last = unpack(redis.call('HMGET', target, 'jobs', 'last_job'))
  return jobs or cjson.encode({ last or nil }) -- releases before this one kept the last one alone
end

local function claim(lane_name, call, id, record, grant, probe)
  local lease = string.format('%.0f', redis.call('INCR', KEY.sequence))
  record.lease = lease
  known_facts(lane_name)
  redis.call('ZADD', KEY.leases .. lane_name, now + args.lease_ms, id)
  redis.call('HSET', KEY.import .. id, 'lease', lease)
  claims[#claims + 1] = {
    call, id, lease, now - tonumber(record.first_start_at_ms or now), probe and 1 or 0, grant,
    earlier_jobs(KEY.target .. base.target_of(record)), base.flat_of(record),
  }
end

-- The record of a queued import; one that somebody deleted must not stop the rest of its lane.
local function known(id, queue)
  local record = base.hash_of(KEY.import .. id)
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
      if not base.TERMINAL[record.state] then
        history.note(id, now, 'silent',
          { call = record.doubt and 'reconcile' or record.state == 'running' and 'poll' or 'start' })
      end
      if record.state == 'starting' and not record.doubt then
        fields = { doubt = 'unknown', doubt_error = 'the worker fell silent during the call',
          doubts = tonumber(record.doubts or 0) + 1 }
      end
      imports.give_back(id, record, now + (fields.doubt and CONFIG.settle_ms or 0), fields)
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
      if record.order then
        queues.requeue(id, record)
      else -- it was to start no earlier, and takes its turn now
        queues.enqueue(id, record)
        redis.call('HSET', KEY.import .. id, 'order', record.order)
      end
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
      local grant = lanes.grant_text(limiter, limiters.grant_call(limiter))
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
  elseif tonumber(record.not_before_ms or 0) > now then
    redis.call('ZADD', KEY.delayed .. queue.name, record.not_before_ms, id)
    return false
  elseif imports.is_expired(record, now) and not record.doubt then
    redis.call('ZADD', KEY.delayed .. queue.name, now + STAND_BACK_MS, id) -- it is cancelled from there
    return false
  end
  local target = base.target_of(record)
  local holder = redis.call('HGET', KEY.target .. target, 'holder')
  if holder == id then
    return true -- a doubt is resolved, and it goes on as it began
  elseif batches.is_stopped(record) then
    batches.hold(id, record, now)
    local priority = not holder and imports.unpark(target)
    if priority then -- nobody else would let those pass that wait for the target
      queues.grow_queue(queue, priority)
    end
    return false
  elseif holder then
    history.note(id, now, 'parked', { holder = holder })
    local rank = ({ high = 0, normal = 1, low = 2 })[record.priority]
    redis.call('ZADD', KEY.parked .. target, rank * 1e14 + tonumber(record.sequence), id)
    return false
  end
  redis.call('HSET', KEY.target .. target, 'holder', id)
  redis.call('PERSIST', KEY.target .. target)
  return true
end

-- Ask AWS for the target's jobs before an import starts: at once where polls have a call to spare.
local function ask_first(id, record, lane_name, doubt, poll, probe)
  if doubt == 'before' then
    history.note(id, now, 'listing')
  elseif record.doubt then
    history.note(id, now, 'doubt', { doubt = doubt, error = record.doubt_error })
  end
  batches.count_batch(record, 'waiting', 'starting')
  base.put(KEY.import .. id, record, { state = 'starting', doubt = doubt, ask_first = false,
    unstarted = 1, doubt_error = record.doubt_error or record.error or '' })
  if limiters.available(poll) > 0 then
    local grant = lanes.grant_text(poll, limiters.grant_call(poll))
    claim(lane_name, 'reconcile', id, record, grant, probe)
  else
    redis.call('ZADD', KEY.polls .. lane_name, now, id)
  end
end

local function claim_starts(queue, start, poll, most, above, probe)
  local taken, passed = 0, 0
  while taken < most and passed < PASSED_AT_ONCE do
    local id = queues.pop_waiting(queue)
    if not id then
      break
    end
    local record = base.hash_of(KEY.import .. id)
    local may = may_start(id, record, queue)
    local target = may and base.hash_of(KEY.target .. base.target_of(record))
    local doubt = may and facts.doubt_before(known_facts(queue.name), record, target)
    if doubt then
      ask_first(id, record, queue.name, doubt, poll, probe)
      taken = taken + 1
    elseif may then
      base.put(KEY.import .. id, record, {
        state = 'starting',
        attempts = tonumber(record.attempts or 0) + 1,
        first_start_at_ms = record.first_start_at_ms or now,
        last_start_at_ms = now,
        unstarted = false,
      })
      history.note(id, now, 'start', { attempt = tonumber(record.attempts) })
      batches.count_batch(record, 'waiting', 'starting')
      local grant = lanes.grant_text(start, limiters.grant_call(start), above)
      claim(queue.name, 'start', id, record, grant, probe)
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

-- How many more jobs may be under way, whether that goes above the ceiling, and how many there might be
-- without one.
local function room_for_jobs(lane_name, lane)
  local unfinished = lanes.under_way(lane_name)
  local allowed = math.max(0, (lanes.limit_of(lane, defaults, 'max_running') or math.huge) - unfinished)
  local room, above = ceiling.room_under(lane, unfinished, now)
  local pioneers, until_ms = facts.room(known_facts(lane_name), lane, unfinished, now)
  if until_ms < math.huge then
    base.put(KEY.lane .. lane_name, lane, { learning_from_ms = lane.learning_from_ms or now })
  end
  return math.min(room, allowed, pioneers), above, math.min(allowed, pioneers), until_ms
end

-- When the lane can make its next call, as far as its limits tell.
local function next_call(lane_name, lane, start, poll, waiting, room, allowed, until_ms)
  local due = first_score(KEY.delayed .. lane_name) or math.huge
  local next_poll = math.min(first_score(KEY.polls .. lane_name) or math.huge,
    first_score(KEY.late .. lane_name) or math.huge)
  if next_poll < math.huge then
    due = math.min(due, math.max(next_poll, limiters.ready_at(poll)))
  end
  if waiting > 0 and room > 0 then
    due = math.min(due, limiters.ready_at(start))
  elseif waiting > 0 and allowed > 0 then -- there is a ceiling
    due = math.min(due, math.max(tonumber(lane.ceiling_try_at_ms), limiters.ready_at(start)))
  elseif waiting > 0 then
    due = math.min(due, until_ms)
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
  local queue = queues.open_queue(lane_name, lane)
  local room, above, allowed, until_ms = room_for_jobs(lane_name, lane)
  local function probed()
    return claim_polls(KEY.polls, lane_name, poll, math.min(1, limiters.available(poll)), true) > 0
      or claim_starts(queue, start, poll, math.min(1, limiters.available(start), room), above, true) > 0
      or claim_polls(KEY.late, lane_name, poll, math.min(1, limiters.available(poll)), true) > 0
  end
  local found = probed()
  for _ = 1, PROBES_TRIED do
    -- Imports that failed as probes stand back for others; where there is no other, they try again.
    if found or queue.size > 0 or not promote_delayed(lane_name, '+inf', 1) then
      break
    end
    queues.close_queue(queue, lane)
    queue = queues.open_queue(lane_name, lane)
    found = probed()
  end
  queues.close_queue(queue, lane)
  save_limiters(start, poll)
  if found then
    redis.call('HSET', KEY.lane .. lane_name, 'paused_until_ms', now + args.lease_ms)
    return now + args.lease_ms
  end
  return next_call(lane_name, lane, start, poll, queue.size, room, allowed, until_ms)
end

-- Divide `most` calls between those that are due: starts get their share, to a call over time; what one
-- of the two does not need is the other's. Returns polls, starts.
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

-- Take note of whether a limiter was what held calls back.
local function note_demand(limiter, due, taken)
  limiter.limited = due > taken and limiters.available(limiter) == 0 and 1 or 0
end

local function claim_within_limits(lane_name, lane, most)
  local start, poll = load_limiters(lane_name, lane)
  local queue = queues.open_queue(lane_name, lane)
  local room, above, allowed, until_ms = room_for_jobs(lane_name, lane)
  local polls_due = redis.call('ZCOUNT', KEY.polls .. lane_name, '-inf', now)
  local starts_due = math.min(queue.size, room)
  local polls, starts
  if start == poll then
    local share = lanes.limit_of(lane, defaults, 'start_share') or SHARE
    local granted = math.min(limiters.available(start), most)
    polls, starts = divide(lane_name, lane, granted, polls_due, starts_due, share)
  else
    polls = math.min(polls_due, limiters.available(poll))
    starts = math.min(starts_due, limiters.available(start))
    polls, starts = divide(lane_name, lane, most, polls, starts, SHARE)
  end

  polls = claim_polls(KEY.polls, lane_name, poll, polls)
  starts = claim_starts(queue, start, poll, starts, above)
  -- Ended imports get what is left over.
  local left_over = math.min(limiters.available(poll), most - polls - starts)
  local late = claim_polls(KEY.late, lane_name, poll, left_over)
  queues.close_queue(queue, lane)
  if above and starts > 0 then
    base.put(KEY.lane .. lane_name, lane, ceiling.try_above(lane, now))
  end
  starts_due = math.min(queue.size + starts, starts_due)
  if start == poll then
    note_demand(start, polls_due + starts_due, polls + starts + late)
  else
    note_demand(start, starts_due, starts)
    note_demand(poll, polls_due, polls)
  end
  save_limiters(start, poll)

  return next_call(lane_name, lane, start, poll, queue.size, room - starts, allowed - starts, until_ms)
end

-- How many calls one lane may add to those on the way. Slots are divided by dynamic thresholds
-- (Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998): a lane may hold as many as stay
-- free, so that one that nobody answers never takes all of them.
local function slots_for(lane_name, left)
  local held = args.in_flight[lane_name] or 0
  local room = math.floor((args.slots - #claims - held) / 2)
  return math.min(left, math.max(room, held == 0 and 1 or 0))
end

base.require_memory() -- else calls would be made whose answers can't be recorded
batches.release_held(now)
imports.cancel_expired(now, EXPIRED_AT_ONCE, STAND_BACK_MS)
local names = redis.call('ZRANGEBYSCORE', KEY.lanes, '-inf', exact, 'LIMIT', 0, args.lanes)
for position, name in ipairs(names) do
  local left = args.limit - #claims
  if left <= 0 then
    break
  end
  local lane = base.hash_of(KEY.lane .. name)
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
local next_expiry = first_score(KEY.expiring)
next_due = next_expiry and math.min(next_expiry, next_due or math.huge) or next_due
if next_due and next_due <= exact and #claims > 0 then
  base.wake() -- more is due than this conductor took: let another one look
end
local flat = {}
for name, shown in pairs(known_of) do
  flat[#flat + 1] = name
  flat[#flat + 1] = base.flat_of(shown)
end
table.insert(claims, 1, flat)
table.insert(claims, 1, next_due and math.max(0, math.ceil(next_due - exact)) or -1)
return claims
