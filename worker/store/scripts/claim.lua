-- Claim calls that are due and that the lanes' limits allow now. A claim is a lease and a grant.
--
-- ARGV  1: JSON object: limit (claims at most), lanes (lanes to look at, at most), lease_ms, slots (calls
--       that the conductor could make in addition to those in progress), in_flight (lane -> calls in
--       progress)
-- Returns JSON: wait_ms (until the next work is due; -1: nothing is scheduled), expired (how many claims had
--       lost their lease), facts (what the lanes have shown: lane -> fields), claims (a list; {} if it is
--       empty): each call, id, lease, age_ms, overdue_ms (since a poll or list fell due, else 0), probe,
--       grant, earlier_jobs (JSON list of the jobs of the target's earlier imports), record (its fields)
-- Atomic, so that any number of conductors claim each call once and spend each token once.
--
-- needs: base, records, history, limiters, ceiling, lanes, facts, polls, budget
-- needs: queues, batches, imports, starting

local args = cjson.decode(ARGV[1])
local exact = base.exact_ms()
local now = math.floor(exact)
local defaults = base.hash_of(KEY.defaults)
local claims = {}
local known_of = {} -- lane -> what it has shown of AWS, for the lanes looked at
local PASSED_AT_ONCE = 200 -- imports taken from a lane's queue that may not start
local EXPIRED_AT_ONCE = 50
-- calls that a lane may take, however many lanes are due, because each lane that is looked at costs time
local TAKEN_TOGETHER = 2
local PROBES_TRIED = 20 -- delayed imports that are tried as a probe
-- silent claims and delayed imports that this call may still move; more would block the server
local tidied = 200
local expired = 0 -- claims whose lease had ended

local function known_facts(lane_name)
  known_of[lane_name] = known_of[lane_name] or facts.of(lane_name)
  return known_of[lane_name]
end

local function earlier_jobs(target)
  local jobs, last = unpack(redis.call('HMGET', target, 'jobs', 'last_job'))
  return jobs or cjson.encode({ last or nil }) -- earlier releases kept only the last job
end

local function claim(lane_name, call, id, record, grant, probe, due)
  local lease = string.format('%.0f', redis.call('INCR', KEY.sequence))
  record.lease = lease
  known_facts(lane_name)
  redis.call('ZADD', KEY.leases .. lane_name, now + args.lease_ms, id)
  redis.call('HSET', KEY.import .. id, 'lease', lease)
  claims[#claims + 1] = {
    call = call,
    id = id,
    lease = lease,
    age_ms = now - tonumber(record.first_start_at_ms or now),
    overdue_ms = now - (due or now),
    probe = probe or false,
    grant = grant,
    earlier_jobs = earlier_jobs(KEY.target .. base.target_of(record)),
    record = record,
  }
end

-- The record of a queued import. If it was deleted, the rest of the lane must still be served.
local function known(id, queue)
  local record = records.read(id)
  if record.state then
    return record
  end
  redis.call('ZREM', queue, id)
  return nil
end

-- Claims whose lease has ended: the outcome of a start is unknown, and a poll is simply due again.
local function reclaim(lane_name)
  local silent = redis.call('ZRANGEBYSCORE', KEY.leases .. lane_name, '-inf', now, 'LIMIT', 0, tidied)
  tidied = tidied - #silent
  for _, id in ipairs(silent) do
    local record = known(id, KEY.leases .. lane_name)
    if record and not base.is_known(record) then
      redis.call('ZADD', KEY.leases .. lane_name, now + base.STAND_BACK_MS, id)
    elseif record then
      local fields = {}
      expired = expired + 1
      if not base.TERMINAL[record.state] then
        history.note(id, record, now, 'silent',
          { call = record.doubt and 'reconcile' or record.state == 'running' and 'poll' or 'start' })
      end
      if record.state == 'starting' and not record.doubt then
        fields = { doubt = 'unknown', doubt_error = SAY.silent,
          doubts = tonumber(record.doubts or 0) + 1 }
      end
      imports.reschedule(id, record, now + (fields.doubt and CONFIG.settle_ms or 0), fields)
    end
  end
end

-- Put up to `most` imports that were delayed until `latest` back into their lane.
local function promote_delayed(lane_name, latest, most)
  local due = redis.call('ZRANGEBYSCORE', KEY.delayed .. lane_name, '-inf', latest, 'LIMIT', 0, most)
  tidied = math.max(0, tidied - #due)
  for _, id in ipairs(due) do
    local record = known(id, KEY.delayed .. lane_name)
    if record then
      redis.call('ZREM', KEY.delayed .. lane_name, id)
      if record.order then
        queues.requeue(id, record)
      else -- it was not to start earlier, and takes its turn now
        queues.enqueue(id, record)
        redis.call('HSET', KEY.import .. id, 'order', record.order)
      end
    end
  end
  return #due > 0
end

-- Claim up to `most` polls. `all`: how many are due, if the likeliest to find an end go first when the limit
-- permits fewer.
local function claim_polls(queue, lane_name, limiter, most, probe, all)
  if most == 0 then
    return 0
  end
  local due
  if all and limiters.available(limiter) < all then
    due = polls.likeliest(queue .. lane_name, known_facts(lane_name), limiter, most, all, exact)
  else
    due = redis.call('ZRANGEBYSCORE', queue .. lane_name, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
  end
  local taken = 0
  for i = 1, #due, 2 do
    local id = due[i]
    local record = known(id, queue .. lane_name)
    if record and not base.is_known(record) then
      redis.call('ZADD', queue .. lane_name, now + base.STAND_BACK_MS, id)
    elseif record then
      redis.call('ZREM', queue .. lane_name, id)
      local grant = lanes.grant_text(limiter, limiters.grant_call(limiter))
      local call = record.doubt and 'reconcile' or 'poll'
      claim(lane_name, call, id, record, grant, probe, tonumber(due[i + 1]))
      taken = taken + 1
    end
  end
  return taken
end

-- List the target's jobs before an import starts: at once if polls have a call to spare.
local function ask_first(id, record, lane_name, doubt, poll, probe)
  if doubt == 'before' then
    history.note(id, record, now, 'listing')
  elseif record.doubt then
    history.note(id, record, now, 'doubt', { doubt = doubt, error = record.doubt_error })
  end
  batches.count_batch(record, 'waiting', 'starting', now)
  records.put(id, record, { state = 'starting', doubt = doubt, ask_first = false,
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
    local record = records.read(id)
    local may, schedule = starting.may_start(id, record, queue, now)
    local target = may and base.hash_of(KEY.target .. base.target_of(record))
    local doubt = may and facts.doubt_before(known_facts(queue.name), record, target)
    if doubt then
      ask_first(id, record, queue.name, doubt, poll, probe)
      taken = taken + 1
    elseif may then
      starting.start(id, record, schedule, now)
      local grant = lanes.grant_text(start, limiters.grant_call(start), above)
      claim(queue.name, 'start', id, record, grant, probe)
      taken = taken + 1
    else
      passed = passed + 1
    end
  end
  return taken
end

-- A paused lane makes one call when its time has come: the probe that may reopen it.
local function claim_probe(lane_name, lane)
  local due = tonumber(lane.paused_until_ms)
  if due > now then
    return due
  end
  local start, poll = budget.load_limiters(lane_name, lane, defaults, exact)
  local queue = queues.open_queue(lane_name, lane)
  local room, above, allowed, until_ms = budget.room_for_jobs(lane_name, lane, defaults,
    known_facts(lane_name), now)
  local function probed()
    return claim_polls(KEY.polls, lane_name, poll, math.min(1, limiters.available(poll)), true) > 0
      or claim_starts(queue, start, poll, math.min(1, limiters.available(start), room), above, true) > 0
      or claim_polls(KEY.late, lane_name, poll, math.min(1, limiters.available(poll)), true) > 0
  end
  local found = probed()
  for _ = 1, PROBES_TRIED do
    -- Imports whose probes failed wait for others. If there are no others, they try again.
    if found or queue.size > 0 or not promote_delayed(lane_name, '+inf', 1) then
      break
    end
    queues.close_queue(queue, lane)
    queue = queues.open_queue(lane_name, lane)
    found = probed()
  end
  queues.close_queue(queue, lane)
  budget.save_limiters(start, poll)
  if found then
    redis.call('HSET', KEY.lane .. lane_name, 'paused_until_ms', now + args.lease_ms)
    return now + args.lease_ms
  end
  return budget.next_call(lane_name, lane, start, poll, queue.size, room, allowed, until_ms)
end

local function claim_within_limits(lane_name, lane, most)
  local start, poll = budget.load_limiters(lane_name, lane, defaults, exact)
  local queue = queues.open_queue(lane_name, lane)
  local room, above, allowed, until_ms = budget.room_for_jobs(lane_name, lane, defaults,
    known_facts(lane_name), now)
  local polls_due = redis.call('ZCOUNT', KEY.polls .. lane_name, '-inf', now)
  local starts_due = math.min(queue.size, room)
  local taken, starts
  if start == poll then
    local share = lanes.limit_of(lane, defaults, 'start_share') or SHARES.starts
    local granted = math.min(limiters.available(start), most)
    taken, starts = budget.divide(lane_name, lane, granted, polls_due, starts_due, share)
  else
    taken = math.min(polls_due, limiters.available(poll))
    starts = math.min(starts_due, limiters.available(start))
    taken, starts = budget.divide(lane_name, lane, most, taken, starts, SHARES.starts)
  end

  taken = claim_polls(KEY.polls, lane_name, poll, taken, false, polls_due)
  starts = claim_starts(queue, start, poll, starts, above)
  -- Ended imports get what is left over.
  local left_over = math.min(limiters.available(poll), most - taken - starts)
  local late = claim_polls(KEY.late, lane_name, poll, left_over)
  queues.close_queue(queue, lane)
  if above and starts > 0 then
    base.put(KEY.lane .. lane_name, lane, ceiling.try_above(lane, now))
  end
  starts_due = math.min(queue.size + starts, starts_due)
  if start == poll then
    budget.note_demand(start, polls_due + starts_due, taken + starts + late)
  else
    budget.note_demand(start, starts_due, starts)
    budget.note_demand(poll, polls_due, taken)
  end
  budget.save_limiters(start, poll)

  return budget.next_call(lane_name, lane, start, poll, queue.size, room - starts, allowed - starts, until_ms)
end

-- How many more calls this conductor may make in one lane. Slots are divided by dynamic thresholds (Choudhury
-- and Hahne, IEEE/ACM Transactions on Networking, 1998): a lane may use as many slots as stay free, so that a
-- lane without answers never takes all of them.
local function slots_for(lane_name, left)
  local in_flight = args.in_flight[lane_name] or 0
  local room = math.floor((args.slots - #claims - in_flight) / 2)
  return math.min(left, math.max(room, in_flight == 0 and 1 or 0))
end

-- If the first entry of `key` is due, act. Returns when the next one is due.
local function act_when_due(key, act)
  local due = budget.first_score(key) or math.huge
  if due <= now then
    act()
    due = budget.first_score(key) or math.huge
  end
  return due
end

base.require_memory() -- otherwise calls would be made whose answers can't be recorded
batches.release_held(now)
local next_opening = act_when_due(KEY.openings, function()
  batches.release_scheduled(now)
end)
local next_expiry = act_when_due(KEY.expiring, function()
  imports.cancel_expired(now, EXPIRED_AT_ONCE, base.STAND_BACK_MS)
end)
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
    -- Lanes that are due together share this conductor's slots.
    local share = math.max(TAKEN_TOGETHER, math.ceil(left / (#names - position + 1)))
    local most = slots_for(name, math.min(left, share))
    if most > 0 then
      due = claim_within_limits(name, lane, most)
    else
      -- looked at again when this conductor has fewer calls in progress; another one may have slots
      due = now + 50
    end
  end
  due = math.min(due or math.huge, budget.first_score(KEY.leases .. name) or math.huge)
  if due == math.huge then
    redis.call('ZREM', KEY.lanes, name)
  else
    redis.call('ZADD', KEY.lanes, math.max(due, exact), name) -- behind those that were not looked at
  end
end

local next_due = math.min(budget.first_score(KEY.lanes) or math.huge, next_opening, next_expiry)
if next_due <= exact and #claims > 0 then
  base.wake() -- more is due than this conductor took, so another one should look
end
return cjson.encode({
  wait_ms = next_due < math.huge and math.max(0, math.ceil(next_due - exact)) or -1,
  expired = expired,
  facts = known_of,
  claims = claims,
})
