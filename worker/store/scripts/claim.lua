-- Claim calls that are due and that the lanes' limits allow now; a claim is a lease and a grant.
--
-- ARGV  1: JSON object: limit (claims at most), lanes (lanes looked at, at most), lease_ms
-- Returns {wait_ms, claim...}: the time until something falls due (-1: nothing is scheduled), and
--       per claim {call, id, lease, age_ms, probe, earlier_job_id, record as a flat list}
-- Atomic, so that any number of conductors claim each call once and spend each token once.

local args = cjson.decode(ARGV[1])
local now = now_ms()
local claims = {}
local RECLAIMED_AT_ONCE = 100
local PARKED_AT_ONCE = 200

-- A token bucket's level now, refilled since it was last written.
local function tokens_of(lane, call)
  local burst = tonumber(lane[call .. '_burst'] or CONFIG.burst[call])
  local rate = tonumber(lane[call .. '_rate'] or CONFIG.rate[call])
  local tokens = tonumber(lane[call .. '_tokens'] or burst)
  local elapsed = math.max(0, now - tonumber(lane[call .. '_tokens_at_ms'] or now))
  return math.min(burst, tokens + elapsed * rate / 1000), rate
end

local function spend(lane_name, call, left)
  redis.call('HSET', KEY.lane .. lane_name, call .. '_tokens', string.format('%.6f', left),
    call .. '_tokens_at_ms', now)
end

-- When the next token of a bucket will be there, and its lane not be blocked.
local function ready_at(lane, call, tokens, rate)
  local wait = tokens >= 1 and 0 or math.ceil((1 - tokens) / rate * 1000)
  return math.max(now + wait, tonumber(lane[call .. '_blocked_until_ms'] or 0))
end

local function claim(lane_name, call, id, record, probe)
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
    call, id, lease, now - tonumber(record.first_start_at_ms or now), probe and 1 or 0,
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
    redis.call('ZREM', KEY.delayed .. lane_name, id)
    local order = redis.call('HGET', KEY.import .. id, 'order')
    if order then
      redis.call('ZADD', KEY.waiting .. lane_name, order, id)
    end
  end
  return #due > 0
end

local function claim_polls(lane_name, most, probe)
  local due = redis.call('ZRANGEBYSCORE', KEY.polls .. lane_name, '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local record = known(id, KEY.polls .. lane_name)
    if record then
      redis.call('ZREM', KEY.polls .. lane_name, id)
      claim(lane_name, record.doubt and 'reconcile' or 'poll', id, record, probe)
    end
  end
  return #due
end

-- The target's own import goes first; others for the same target stand aside until it is over.
local function hold_target(id, record)
  local key = KEY.target .. target_of(record)
  local holder = redis.call('HGET', key, 'holder')
  if holder and holder ~= id then
    redis.call('ZADD', KEY.parked .. target_of(record), record.order, id)
    return false
  end
  redis.call('HSET', key, 'holder', id)
  redis.call('PERSIST', key)
  return true
end

local function claim_starts(lane_name, most, probe)
  local taken, parked = 0, 0 -- parked counts all that were popped and not taken
  while taken < most and parked < PARKED_AT_ONCE do
    local id = redis.call('ZPOPMIN', KEY.waiting .. lane_name)[1]
    if not id then
      break
    end
    local record = known(id, KEY.waiting .. lane_name)
    if not record then
      parked = parked + 1
    elseif hold_target(id, record) then
      put(KEY.import .. id, record, {
        state = 'starting',
        attempts = tonumber(record.attempts or 0) + 1,
        first_start_at_ms = record.first_start_at_ms or now,
      })
      count_batch(record, 'waiting', 'starting')
      claim(lane_name, 'start', id, record, probe)
      taken = taken + 1
    else
      parked = parked + 1
    end
  end
  return taken
end

local function under_way(lane_name)
  return redis.call('ZCARD', KEY.polls .. lane_name) + redis.call('ZCARD', KEY.leases .. lane_name)
end

local function allowed(lane, call, tokens, most)
  if tonumber(lane[call .. '_blocked_until_ms'] or 0) > now then
    return 0
  end
  return math.max(0, math.min(math.floor(tokens), most))
end

local function first_score(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

-- A paused lane lets one call through when its time has come: the probe that may reopen it.
local function claim_probe(lane_name, lane)
  local due = tonumber(lane.paused_until_ms)
  if due > now then
    return due
  end
  local function probed()
    return claim_polls(lane_name, 1, true) > 0 or claim_starts(lane_name, 1, true) > 0
  end
  -- Imports that failed as probes stand back for others; where there is no other, they try again.
  if probed() or (promote_delayed(lane_name, '+inf') and probed()) then
    redis.call('HSET', KEY.lane .. lane_name, 'paused_until_ms', now + args.lease_ms)
    return now + args.lease_ms
  end
  return first_score(KEY.polls .. lane_name)
end

local function claim_within_limits(lane_name, lane, most)
  local poll_tokens, poll_rate = tokens_of(lane, 'poll')
  local polls = claim_polls(lane_name, allowed(lane, 'poll', poll_tokens, most))
  poll_tokens = poll_tokens - polls
  local start_tokens, start_rate = tokens_of(lane, 'start')
  local room = tonumber(lane.max_running or math.huge) - under_way(lane_name)
  local starts = claim_starts(lane_name,
    allowed(lane, 'start', start_tokens, math.min(most - polls, room)))
  start_tokens = start_tokens - starts
  if polls > 0 then
    spend(lane_name, 'poll', poll_tokens)
  end
  if starts > 0 then
    spend(lane_name, 'start', start_tokens)
  end

  local due = math.huge
  local next_poll = first_score(KEY.polls .. lane_name)
  if next_poll then
    due = math.max(next_poll, ready_at(lane, 'poll', poll_tokens, poll_rate))
  end
  if room > starts and redis.call('EXISTS', KEY.waiting .. lane_name) == 1 then
    due = math.min(due, ready_at(lane, 'start', start_tokens, start_rate))
  end
  return math.min(due, first_score(KEY.delayed .. lane_name) or math.huge)
end

local names = redis.call('ZRANGEBYSCORE', KEY.lanes, '-inf', now, 'LIMIT', 0, args.lanes)
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
    due = claim_within_limits(name, lane, math.ceil(left / (#names - position + 1)))
  end
  due = math.min(due or math.huge, first_score(KEY.leases .. name) or math.huge)
  if due == math.huge then
    redis.call('ZREM', KEY.lanes, name)
  else
    redis.call('ZADD', KEY.lanes, math.ceil(due), name)
  end
end

local next_due = first_score(KEY.lanes)
if next_due and next_due <= now and #claims > 0 then
  wake() -- more is due than this conductor took: let another one look
end
table.insert(claims, 1, next_due and math.max(0, next_due - now) or -1)
return claims
