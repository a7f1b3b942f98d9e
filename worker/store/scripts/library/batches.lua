-- Batches: counts, completion, and the stop rule that holds imports back.
--
-- A batch's gate is absent (open), 'canary' (only its first imports may start) or 'stopped'. What may
-- not start is held: it waits under the batch, and takes its turn in its lane when the gate opens.
--
-- needs: base, history, queues

local JUDGED_AT_LEAST = 20 -- a share of failures is one of so many imports at least
local RELEASED_AT_ONCE = 500

-- Count a batch's import over from one state to another; `from` is nil for a new one.
local function count_batch(record, from, to)
  if not record.batch_id then
    return
  end
  local key = KEY.batch .. record.batch_id
  if from then
    redis.call('HINCRBY', key, from, -1)
  end
  redis.call('HINCRBY', key, to, 1)
end

-- Emit batch.completed once all that is accepted, and all that was announced, is terminal. What is
-- over so far is kept for the retention time, and on from there when more comes.
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
  end
end

local function join_batch(id, record, sequence)
  if not record.batch_id then
    return
  end
  local key = KEY.batch .. record.batch_id
  redis.call('HINCRBY', key, 'accepted', 1)
  redis.call('HDEL', key, 'completed_at_ms')
  redis.call('PERSIST', key)
  redis.call('PERSIST', KEY.members .. record.batch_id)
  redis.call('ZADD', KEY.members .. record.batch_id, sequence, id)
end

-- Count a request of a batch that asked for an import of somebody else's: it is that one's to end.
local function count_known(id, batch_id, now)
  local members = KEY.members .. batch_id
  if redis.call('ZADD', members, 'NX', redis.call('INCR', KEY.sequence), id) == 1 then
    redis.call('HINCRBY', KEY.batch .. batch_id, 'known', 1)
    complete_batch({ batch_id = batch_id }, now)
  end
end

-- Hold an import back; it still waits, but in no lane.
local function hold(id, record, now)
  history.note(id, now, 'held')
  redis.call('ZADD', KEY.held .. record.batch_id, record.sequence, id)
end

-- Let a new import wait in its lane, or hold it back as its batch's gate says.
local function admit_to_lane(id, record, now)
  local gate, canary, let_in
  if record.batch_id then
    local key = KEY.batch .. record.batch_id
    gate, canary, let_in = unpack(redis.call('HMGET', key, 'gate', 'canary', 'let_in'))
    if gate == 'canary' and tonumber(let_in or 0) < tonumber(canary) then
      redis.call('HINCRBY', key, 'let_in', 1)
      gate = nil
    end
  end
  if gate then
    hold(id, record, now)
  elseif tonumber(record.not_before_ms or 0) > now then
    redis.call('ZADD', KEY.delayed .. base.lane_of(record), record.not_before_ms, id)
  else
    queues.enqueue(id, record)
  end
end

local function is_stopped(record)
  return record.batch_id and redis.call('HGET', KEY.batch .. record.batch_id, 'gate') == 'stopped'
end

-- Stop a batch: what has not started waits until somebody resumes it.
local function stop_batch(batch_id, reason, now)
  local key = KEY.batch .. batch_id
  local pauses = redis.call('HINCRBY', key, 'pauses', 1)
  redis.call('HSET', key, 'gate', 'stopped', 'stopped_reason', reason, 'stopped_at_ms', now)
  base.append_event('batch.paused', batch_id .. '/paused/' .. pauses, batch_id, now,
    { batchId = batch_id, reason = reason })
end

-- Open a batch's gate; conductors let its held imports into their lanes, some at a time.
local function open_batch(batch_id, now)
  redis.call('HDEL', KEY.batch .. batch_id, 'gate', 'stopped_reason', 'stopped_at_ms')
  redis.call('HSET', KEY.batch .. batch_id, 'judged', 0, 'judged_bad', 0)
  if redis.call('EXISTS', KEY.held .. batch_id) == 1 then
    redis.call('ZADD', KEY.releases, now, batch_id)
    base.wake()
  end
end

-- Let held imports of a batch whose gate has opened take their turns.
local function release_held(now)
  local batch_id = redis.call('ZRANGE', KEY.releases, 0, 0)[1]
  if not batch_id then
    return
  end
  local popped = {}
  if not redis.call('HGET', KEY.batch .. batch_id, 'gate') then
    popped = redis.call('ZPOPMIN', KEY.held .. batch_id, RELEASED_AT_ONCE)
  end
  for i = 1, #popped, 2 do
    local record = base.hash_of(KEY.import .. popped[i])
    if record.state == 'waiting' then
      history.note(popped[i], now, 'released')
      queues.enqueue(popped[i], record)
      redis.call('HSET', KEY.import .. popped[i], 'order', record.order)
      base.schedule_lane(base.lane_of(record), now, now)
    end
  end
  if #popped == 0 or redis.call('EXISTS', KEY.held .. batch_id) == 0 then
    redis.call('ZREM', KEY.releases, batch_id)
  end
end

-- Whether all that was announced of a batch has come and started.
local function has_begun(key)
  local names = { 'expected', 'accepted', 'known', 'waiting' }
  local expected, accepted, known, waiting = unpack(redis.call('HMGET', key, unpack(names)))
  return expected and tonumber(accepted) + tonumber(known or 0) >= tonumber(expected)
    and tonumber(waiting or 0) == 0
end

-- An import that was let in has ended: does its batch's rule stop the batch, or open its gate?
local function judge_batch(record, state, now)
  local key = KEY.batch .. record.batch_id
  local gate, canary, percent = unpack(redis.call('HMGET', key, 'gate', 'canary', 'stop_percent'))
  if gate == 'stopped' or not (canary or percent) then
    return
  end
  local judged = redis.call('HINCRBY', key, 'judged', 1)
  local is_bad = state ~= 'succeeded' and state ~= 'cancelled'
  local bad = redis.call('HINCRBY', key, 'judged_bad', is_bad and 1 or 0)
  percent = tonumber(percent or (gate and 0) or 100)
  local of = gate and tonumber(canary) or math.max(judged, JUDGED_AT_LEAST)
  if has_begun(key) then
    return -- there is nothing left to stop
  elseif bad * 100 > percent * of then
    local what = gate and 'its first ' .. canary or judged .. ' imports'
    stop_batch(record.batch_id, bad .. ' of ' .. what .. ' ended badly', now)
  elseif gate and judged >= tonumber(canary) then
    open_batch(record.batch_id, now)
  end
end

return {
  count_batch = count_batch,
  complete_batch = complete_batch,
  join_batch = join_batch,
  count_known = count_known,
  hold = hold,
  admit_to_lane = admit_to_lane,
  is_stopped = is_stopped,
  stop_batch = stop_batch,
  open_batch = open_batch,
  release_held = release_held,
  judge_batch = judge_batch,
}
