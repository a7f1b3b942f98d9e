-- Batches: counts, completion, and what holds imports back: the stop rule and the schedule.
--
-- A batch's gate is absent (open), 'canary' (only its first imports may start) or 'stopped' (paused). An
-- import that may not start is held: it waits under the batch, and gets its turn in its lane when the gate
-- opens. All imports of a batch with a schedule are held at first. They go to their lanes when the schedule
-- allows starts, and if these come to a start too late, back again.
--
-- needs: base, records, history, queues, schedules

local JUDGED_AT_LEAST = 20 -- the share of failures is judged among at least so many imports
local RELEASED_AT_ONCE = 500
local SWEPT_AT_ONCE = 500

-- Add a batch to the index, unless it is there: it is new, or a release without an index wrote it.
local function index_batch(batch_id, now)
  if redis.call('HSETNX', KEY.batch .. batch_id, 'created_at_ms', now) == 1 then
    redis.call('ZADD', KEY.batches, now, batch_id)
  end
end

-- Remove batches whose counts have expired from the index: those of the part at `cursor`. Returns the cursor
-- of the next part.
local function sweep_index(cursor)
  local following, entries = unpack(redis.call('ZSCAN', KEY.batches, cursor, 'COUNT', SWEPT_AT_ONCE))
  for i = 1, #entries, 2 do
    if redis.call('EXISTS', KEY.batch .. entries[i]) == 0 then
      redis.call('ZREM', KEY.batches, entries[i])
    end
  end
  return following
end

-- Move a batch's import from one count to another; `from` is nil for a new import. A batch makes progress
-- when an import is admitted, runs or ends, and not when a start is claimed or put back.
local function count_batch(record, from, to, now)
  if not record.batch_id then
    return
  end
  local key = KEY.batch .. record.batch_id
  local left = from or 'accepted'
  local before, after, created = unpack(redis.call('HMGET', key, left, to, 'created_at_ms'))
  local fields = { left, (before or 0) + (from and -1 or 1), to, (after or 0) + 1 }
  if not from or (to ~= 'waiting' and to ~= 'starting') then
    fields[#fields + 1] = 'progressed_at_ms'
    fields[#fields + 1] = now
  end
  redis.call('HSET', key, unpack(fields))
  if not created then
    index_batch(record.batch_id, now)
  end
end

-- Append batch.completed once all accepted and all announced imports are over. The counts are kept for the
-- retention time, and continue from there if more imports arrive.
local function complete_batch(record, now)
  local key = KEY.batch .. record.batch_id
  local batch = base.hash_of(key)
  local finished = 0
  local data = { batchId = record.batch_id }
  for state in pairs(base.TERMINAL) do
    data[state] = tonumber(batch[state] or 0)
    finished = finished + data[state]
  end
  local accepted = tonumber(batch.accepted or 0)
  data.known = tonumber(batch.known or 0)
  data.total = accepted + data.known
  if finished < accepted then
    return
  end
  redis.call('PEXPIRE', key, CONFIG.retention_ms)
  redis.call('PEXPIRE', KEY.members .. record.batch_id, CONFIG.retention_ms)
  if data.total >= tonumber(batch.expected or 0) then
    base.append_event('batch.completed', record.batch_id .. '/completed/' .. data.total, record.batch_id, now,
      data)
    redis.call('HSET', key, 'completed_at_ms', now)
    schedules.forget(record.batch_id)
  end
end

-- Make a new import a member of its batch. The caller counts it.
local function join_batch(id, record, sequence)
  if not record.batch_id then
    return
  end
  local key = KEY.batch .. record.batch_id
  redis.call('HDEL', key, 'completed_at_ms')
  redis.call('PERSIST', key)
  redis.call('PERSIST', KEY.members .. record.batch_id)
  redis.call('ZADD', KEY.members .. record.batch_id, sequence, id)
end

-- Count a request of a batch that turned out to be an import of another batch, which ends it.
local function count_known(id, batch_id, now)
  local members = KEY.members .. batch_id
  if redis.call('ZADD', members, 'NX', redis.call('INCR', KEY.sequence), id) == 1 then
    if redis.call('HINCRBY', KEY.batch .. batch_id, 'known', 1) == 1 then
      index_batch(batch_id, now)
    end
    complete_batch({ batch_id = batch_id }, now)
  end
end

-- Hold an import back: it still waits, but in no lane.
local function hold(id, record, now)
  history.note(id, record, now, 'held')
  redis.call('ZADD', KEY.held .. record.batch_id, record.sequence, id)
end

-- Hold an import back that was in its lane: its batch is paused, or its schedule allows no start before
-- `ready_at`.
local function hold_back(id, record, gate, schedule, ready_at, now)
  hold(id, record, now)
  if gate == 'canary' then
    redis.call('HINCRBY', KEY.batch .. record.batch_id, 'let_in', -1)
  end
  if gate ~= 'stopped' then
    schedules.await(schedule, ready_at, now)
  end
end

-- Pause a batch: imports that have not started wait until an operator resumes it.
local function pause_batch(batch_id, reason, now)
  local key = KEY.batch .. batch_id
  local pauses = redis.call('HINCRBY', key, 'pauses', 1)
  redis.call('HSET', key, 'gate', 'stopped', 'stopped_reason', reason, 'stopped_at_ms', now)
  base.append_event('batch.paused', batch_id .. '/paused/' .. pauses, batch_id, now,
    { batchId = batch_id, reason = reason })
  index_batch(batch_id, now)
end

-- Let conductors put a batch's held imports into their lanes, as far as its gate and its schedule allow.
local function release_later(batch_id, now)
  if redis.call('EXISTS', KEY.held .. batch_id) == 1 then
    redis.call('ZADD', KEY.releases, now, batch_id)
    base.wake()
  end
end

-- Open a batch's gate.
local function open_batch(batch_id, now)
  redis.call('HDEL', KEY.batch .. batch_id, 'gate', 'stopped_reason', 'stopped_at_ms')
  redis.call('HSET', KEY.batch .. batch_id, 'judged', 0, 'judged_bad', 0)
  index_batch(batch_id, now)
  release_later(batch_id, now)
end

-- What the canaries' ends so far mean: 'stopped', 'open', or nil while it is undecided.
local function canary_verdict(judged, bad, canary, percent)
  if bad * 100 > percent * canary then
    return 'stopped'
  end
  return judged >= canary and 'open' or nil
end

-- Decide about a batch whose canaries ended while no other import had arrived.
local function decide_late(batch_id, batch, now)
  local canary, bad = tonumber(batch.canary), tonumber(batch.judged_bad or 0)
  local percent = tonumber(batch.stop_percent or 0)
  local verdict = canary_verdict(tonumber(batch.judged or 0), bad, canary, percent)
  if verdict == 'stopped' then
    pause_batch(batch_id, string.format(SAY.canaries_failed, bad, canary), now)
  elseif verdict == 'open' then
    open_batch(batch_id, now)
  end
  return verdict ~= 'open' and 'canary' or nil
end

-- Put a new import into its lane, or hold it back if its batch's gate or schedule requires that.
local function admit_to_lane(id, record, now)
  local gate, schedule
  if record.batch_id then
    local key = KEY.batch .. record.batch_id
    gate, schedule = schedules.read(record.batch_id)
    local batch = gate == 'canary' and base.hash_of(key)
    if batch and tonumber(batch.let_in or 0) < tonumber(batch.canary) then
      redis.call('HINCRBY', key, 'let_in', schedule and 0 or 1) -- a held canary is counted later
      gate = nil
    elseif batch then
      gate = decide_late(record.batch_id, batch, now)
    end
  end
  if schedule then
    record.format = RECORD.scheduled -- so that a worker that knows no schedules leaves it alone
  end
  if gate then
    hold(id, record, now)
  elseif schedule then
    hold(id, record, now)
    schedules.await(schedule, schedules.ready_at(schedule, now), now)
  elseif tonumber(record.not_before_ms or 0) > now then
    redis.call('ZADD', KEY.delayed .. base.lane_of(record), record.not_before_ms, id)
  else
    queues.enqueue(id, record)
  end
end

-- How many held imports of a batch may go to their lanes now, the batch's gate, and its schedule and when it
-- allows more, if it has one.
local function releasable(batch_id, now)
  local gate, schedule = schedules.read(batch_id)
  local most = gate == 'stopped' and 0 or RELEASED_AT_ONCE
  if gate == 'canary' then
    local canary, let_in = unpack(redis.call('HMGET', KEY.batch .. batch_id, 'canary', 'let_in'))
    most = math.min(most, math.max(0, tonumber(canary) - tonumber(let_in or 0)))
  end
  if most == 0 or not schedule then
    return most, gate
  end
  local again_at = schedules.ready_at(schedule, now)
  if again_at > now then
    return 0, gate, schedule, again_at
  end
  if not schedule.gap_ms then
    return most, gate, schedule, now
  end
  -- Imports that were released and have not started yet are to be the next ones. If they can't start, one
  -- more follows at a time.
  local waiting = tonumber(redis.call('HGET', KEY.batch .. batch_id, 'waiting') or 0)
  local released = waiting - redis.call('ZCARD', KEY.held .. batch_id)
  local left = math.max(1, schedules.starts_left(schedule, now) - released)
  return math.min(left, most), gate, schedule, now + schedule.gap_ms
end

-- Put an import that was held into its lane. Returns whether it still waits.
local function release(id, now)
  local record = records.read(id)
  if record.state ~= 'waiting' then
    return false
  end
  history.note(id, record, now, 'released')
  queues.enqueue(id, record)
  redis.call('HSET', KEY.import .. id, 'order', record.order)
  base.schedule_lane(base.lane_of(record), now, now)
  return true
end

-- Put held imports of a batch into their lanes, as many as may start now.
local function release_some(batch_id, now)
  local most, gate, schedule, again_at = releasable(batch_id, now)
  local popped = most > 0 and redis.call('ZPOPMIN', KEY.held .. batch_id, most) or {}
  local released = 0
  for i = 1, #popped, 2 do
    released = released + (release(popped[i], now) and 1 or 0)
  end
  if gate == 'canary' and released > 0 then
    redis.call('HINCRBY', KEY.batch .. batch_id, 'let_in', released)
  end
  if released > 0 then
    redis.call('HSET', KEY.batch .. batch_id, 'progressed_at_ms', now)
  end
  local is_empty = redis.call('EXISTS', KEY.held .. batch_id) == 0
  if #popped == 0 or is_empty or schedule then
    redis.call('ZREM', KEY.releases, batch_id)
  end
  if schedule and not is_empty then
    schedules.await(schedule, again_at, now)
  end
end

-- Put held imports of the next batch whose gate has opened into their lanes.
local function release_held(now)
  local batch_id = redis.call('ZRANGE', KEY.releases, 0, 0)[1]
  if batch_id then
    release_some(batch_id, now)
  end
end

-- Put held imports of the next batch whose schedule allows starts now into their lanes.
local function release_scheduled(now)
  local batch_id = redis.call('ZRANGEBYSCORE', KEY.openings, '-inf', now, 'LIMIT', 0, 1)[1]
  redis.call('ZREM', KEY.openings, batch_id)
  release_some(batch_id, now)
end

-- Whether all announced imports of a batch have arrived and started.
local function has_begun(key)
  local names = { 'expected', 'accepted', 'known', 'waiting' }
  local expected, accepted, known, waiting = unpack(redis.call('HMGET', key, unpack(names)))
  return expected and tonumber(accepted) + tonumber(known or 0) >= tonumber(expected)
    and tonumber(waiting or 0) == 0
end

-- An import has ended that was let through: does its batch's rule pause the batch, or open its gate?
local function judge_batch(record, state, now)
  local key = KEY.batch .. record.batch_id
  local gate, canary, percent = unpack(redis.call('HMGET', key, 'gate', 'canary', 'stop_percent'))
  if gate == 'stopped' or not (canary or percent) then
    return
  end
  local judged = redis.call('HINCRBY', key, 'judged', 1)
  local is_bad = state ~= 'succeeded' and state ~= 'cancelled'
  local bad = redis.call('HINCRBY', key, 'judged_bad', is_bad and 1 or 0)
  if gate then
    local verdict = canary_verdict(judged, bad, tonumber(canary), tonumber(percent or 0))
    if verdict == 'open' then
      open_batch(record.batch_id, now)
    elseif verdict == 'stopped' and not has_begun(key) then -- else `decide_late` does, if more arrive
      pause_batch(record.batch_id, string.format(SAY.canaries_failed, bad, canary), now)
    end
  elseif bad * 100 > tonumber(percent or 100) * math.max(judged, JUDGED_AT_LEAST) and not has_begun(key) then
    pause_batch(record.batch_id, string.format(SAY.too_many_failed, bad, judged), now)
  end
end

return {
  index_batch = index_batch,
  sweep_index = sweep_index,
  count_batch = count_batch,
  complete_batch = complete_batch,
  join_batch = join_batch,
  count_known = count_known,
  hold_back = hold_back,
  admit_to_lane = admit_to_lane,
  pause_batch = pause_batch,
  open_batch = open_batch,
  release_later = release_later,
  release_held = release_held,
  release_scheduled = release_scheduled,
  judge_batch = judge_batch,
}
