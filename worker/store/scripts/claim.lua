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
local RECLAIMED_AT_ONCE = 100
local PASSED_AT_ONCE = 200 -- imports that are taken from a lane's queue without being started

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

-- Claims that fell silent: a start is in doubt, a poll is simply due again.
local function reclaim(lane_name)
  local silent = redis.call('ZRANGEBYSCORE', KEY.leases .. lane_name, '-inf', now, 'LIMIT', 0,
    RECLAIMED_AT_ONCE)
  for _, id in ipairs(silent) do
    local record = known(id, KEY.leases .. lane_name)
    if record then
      local fields = {}
      if record.state == 'starting' and not record.doubt then
        fields = { doubt = 'unknown', doubt_error = 'the worker fell silent during the call',
          doubts = tonumber(record.doubts or 0) + 1 }
      end
      give_back(id, record, KEY.polls, now + (fields.doubt and CONFIG.settle_ms or 0), fields)
    end
  end
end

local function promote_delayed(lane_name, latest)
  local due = redis.call('ZRANGEBYSCORE', KEY.delayed .. lane_name, '-inf', latest, 'LIMIT', 0,
    args.limit)
  for _, id in ipairs(due) do
    local record = known(id, KEY.delayed .. lane_name)
    if record then
      redis.call('ZREM', KEY.delayed .. lane_name, id)
      requeue(id, record)
    end
  end
  return #due > 0
end

local function claim_polls(lane_name, limiter, most, probe)
  local due = redis.call('ZRANGEBYSCORE', KEY.polls .. lane_name, '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local record = known(id, KEY.polls .. lane_name)
    if record then
      redis.call('ZREM', KEY.polls .. lane_name, id)
      local grant = grant_text(limiter, grant_call(limiter))
      claim(lane_name, record.doubt and 'reconcile' or 'poll', id, record, grant, probe)
    end
  end
  return #due
end

-- The target's own import goes first; others for the same target stand aside until it is over.
local function hold_target(id, record)
  local key = KEY.target .. target_of(record)
  local holder = redis.call('HGET', key, 'holder')
  if holder and holder ~= id then
    local rank = ({ high = 0, normal = 1, low = 2 })[record.priority]
    redis.call('ZADD', KEY.parked .. target_of(record), rank * 1e14 + tonumber(record.sequence), id)
    return false
  end
  redis.call('HSET', key, 'holder', id)
  redis.call('PERSIST', key)
  return true
end

-- Whether an import that was taken out of its lane's queue may start now.
local function may_start(id, record)
  if not record.state then
    return false -- somebody deleted it
  elseif is_stopped(record) then
    hold(id, record)
    return false
  end
  return hold_target(id, record)
end

local function claim_starts(queue, limiter, most, above, probe)
  local taken, passed = 0, 0
  while taken < most and passed < PASSED_AT_ONCE do
    local id = pop_waiting(queue)
    if not id then
      break
    end
    local record = hash_of(KEY.import .. id)
    if may_start(id, record) then
      put(KEY.import .. id, record, {
        state = 'starting',
        attempts = tonumber(record.attempts or 0) + 1,
        first_start_at_ms = record.first_start_at_ms or now,
      })
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

-- A paused lane lets one call through when its time has come: the probe that may reopen it.
local function claim_probe(lane_name, lane)
  local due = tonumber(lane.paused_until_ms)
  if due > now then
    return due
  end
  local start, poll = load_limiters(lane_name, lane)
  local function probed()
    if claim_polls(lane_name, poll, 1, true) > 0 then
      return true
    end
    local queue = open_queue(lane_name, lane)
    local taken = claim_starts(queue, start, 1, false, true)
    close_queue(queue, lane)
    return taken > 0
  end
  -- Imports that failed as probes stand back for others; where there is no other, they try again.
  if probed() or (promote_delayed(lane_name, '+inf') and probed()) then
    save_limiters(start, poll)
    redis.call('HSET', KEY.lane .. lane_name, 'paused_until_ms', now + args.lease_ms)
    return now + args.lease_ms
  end
  return first_score(KEY.polls .. lane_name)
end

-- How many polls and starts of those that are due are granted. A shared budget is divided: while both
-- are due, starts get their share of it, to a call; what one does not need is the other's.
local function divide(lane, start, poll, polls_due, starts_due, most)
  if start ~= poll then
    local starts = math.min(starts_due, available(start))
    local polls = math.min(polls_due, available(poll), math.max(math.ceil(most / 2), most - starts))
    return polls, math.min(starts, most - polls), {}
  end
  local calls = math.min(available(start), most)
  local share = limit_of(lane, defaults, 'start_share') or 0.5
  local credit = tonumber(lane.start_credit or 0)
  local starts = math.min(starts_due, calls, math.max(calls - polls_due, math.floor(share * calls + credit)))
  local polls = math.min(polls_due, calls - starts)
  if polls_due > 0 and starts_due > 0 and polls + starts > 0 then
    credit = clamp(credit + share * (polls + starts) - starts, -1, 1)
  end
  return polls, starts, { start_credit = credit }
end

-- Take note of whether a limiter was what held calls back.
local function note_demand(limiter, due, taken)
  limiter.limited = due > taken and available(limiter) == 0 and 1 or 0
end

local function claim_within_limits(lane_name, lane, most)
  local start, poll = load_limiters(lane_name, lane)
  local queue = open_queue(lane_name, lane)
  local unfinished = under_way(lane_name)
  local room, above = room_under(lane, unfinished, now)
  room = math.max(0, math.min(room, (limit_of(lane, defaults, 'max_running') or math.huge) - unfinished))
  local polls_due = redis.call('ZCOUNT', KEY.polls .. lane_name, '-inf', now)
  local starts_due = math.min(queue.size, room)
  local polls, starts, fields = divide(lane, start, poll, polls_due, starts_due, most)

  polls = claim_polls(lane_name, poll, polls)
  starts = claim_starts(queue, start, starts, above)
  close_queue(queue, lane)
  if above and starts > 0 then
    put(KEY.lane .. lane_name, lane, try_above(lane, now))
  end
  if next(fields) then
    put(KEY.lane .. lane_name, lane, fields)
  end
  starts_due = math.min(queue.size + starts, starts_due)
  if start == poll then
    note_demand(start, polls_due + starts_due, polls + starts)
  else
    note_demand(start, starts_due, starts)
    note_demand(poll, polls_due, polls)
  end
  save_limiters(start, poll)

  local due = math.huge
  local next_poll = first_score(KEY.polls .. lane_name)
  if next_poll then
    due = math.max(next_poll, ready_at(poll))
  end
  if queue.size > 0 and room > starts then
    due = math.min(due, ready_at(start))
  elseif queue.size > 0 and lane.ceiling then
    due = math.min(due, math.max(tonumber(lane.ceiling_try_at_ms), ready_at(start)))
  end
  return math.min(due, first_score(KEY.delayed .. lane_name) or math.huge)
end

-- How many calls one lane may add to those on the way. Slots are divided by dynamic thresholds
-- (Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998): a lane may hold as many as stay
-- free, so that one that nobody answers never takes all of them.
local function slots_for(lane_name, left)
  local held = args.in_flight[lane_name] or 0
  local room = math.floor((args.slots - #claims - held) / 2)
  return math.min(left, math.max(room, held == 0 and 1 or 0))
end

release_held(now)
local names = redis.call('ZRANGEBYSCORE', KEY.lanes, '-inf', exact, 'LIMIT', 0, args.lanes)
for position, name in ipairs(names) do
  local left = args.limit - #claims
  if left <= 0 then
    break
  end
  local lane = hash_of(KEY.lane .. name)
  reclaim(name)
  promote_delayed(name, now)
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
