-- What scripts do to an import: move it between queues, end it, reschedule it.
--
-- needs: base, records, history, queues, batches

local TARGET_MEMORY_MS = 86400000 -- how long a free target remembers its jobs
local JOBS_REMEMBERED = 20 -- how many of the last jobs

-- Remove the import from all queues that conductors look at.
local function leave_queues(id, record)
  local lane = base.lane_of(record)
  if redis.call('ZREM', KEY.waiting .. lane .. ':' .. record.priority, id) == 1 then
    queues.forget_flows(lane, record.priority)
  end
  redis.call('ZREM', KEY.delayed .. lane, id)
  redis.call('ZREM', KEY.polls .. lane, id)
  redis.call('ZREM', KEY.leases .. lane, id)
end

-- Put the next import that waits for a target back into its lane. Returns its priority, nil for none.
local function unpark(target)
  repeat
    local parked = redis.call('ZPOPMIN', KEY.parked .. target)[1]
    local record = parked and records.read(parked)
    if parked and record.state == 'waiting' then -- if it was deleted, the next one follows
      queues.requeue(parked, record)
      return record.priority
    end
  until not parked
  return nil
end

-- Whether the import ended before its job, so that the job's end should be noted.
local function is_followed(record)
  return (record.state == 'timed_out' or record.state == 'cancelled') and record.job_id
end

-- Remember the job of an ended import, so that it is never taken for a later import's job.
local function remember_job(key, job_id)
  local jobs = cjson.decode(redis.call('HGET', key, 'jobs') or '[]')
  jobs[#jobs + 1] = job_id
  if #jobs > JOBS_REMEMBERED then
    table.remove(jobs, 1)
  end
  redis.call('HSET', key, 'jobs', cjson.encode(jobs))
end

-- Free the target if this import holds it, or was the next to take it.
local function release_target(id, record, now)
  local target = base.target_of(record)
  local key = KEY.target .. target
  local holder = redis.call('HGET', key, 'holder')
  if holder and holder ~= id then
    return
  elseif holder then
    redis.call('HDEL', key, 'holder')
    if record.job_id then
      remember_job(key, record.job_id)
    end
    if is_followed(record) then
      redis.call('HSET', key, 'open_job', record.job_id)
    end
    redis.call('PEXPIRE', key, is_followed(record) and CONFIG.retention_ms or TARGET_MEMORY_MS)
  end
  if unpark(target) then
    base.schedule_lane(base.lane_of(record), now, now)
  end
end

-- Note that a task is to end with an import that is already over. If the signature is empty, a worker creates
-- the task.
local function owe_end(id, task_id, signature, now)
  local key = KEY.tasks .. id
  -- The signature that a task was sent with must not be lost.
  redis.call(signature == '' and 'HSETNX' or 'HSET', key, task_id, signature)
  redis.call('PEXPIRE', key, CONFIG.retention_ms)
  redis.call('ZADD', KEY.unfinished, now + CONFIG.lease_ms, id)
end

-- Whether a script ended an import without an answer of a worker, and no worker has learned of it before.
-- From now on, one has.
local function learn_of_end(id, now)
  local due_ms = redis.call('ZSCORE', KEY.unfinished, id)
  local finished_at_ms = records.read_some(id, { 'finished_at_ms' }).finished_at_ms
  if not due_ms or tonumber(due_ms) > tonumber(finished_at_ms) then
    return false
  end
  redis.call('ZADD', KEY.unfinished, now + CONFIG.lease_ms, id)
  return true
end

-- A worker makes a call for an import although it is over.
local function look_again(id, record, now, delay_ms)
  redis.call('ZADD', KEY.late .. base.lane_of(record), now + delay_ms, id)
  base.schedule_lane(base.lane_of(record), now + delay_ms, now)
end

local function follow_late(id, record, now)
  if is_followed(record) then
    look_again(id, record, now, CONFIG.lease_ms)
  end
end

-- Fields that the record no longer needs when its import is over.
local PASSING = { 'lease', 'ask_first', 'unstarted', 'undecided', 'unclear_jobs', 'updated', 'changed_at_ms',
  'unfinished_at_ms' }
-- The Celery tasks that end with the import are to be finished, within a lease. If none was sent with the
-- request, a worker creates the import's own.
local function owe_tasks(id, record, now)
  local key = KEY.tasks .. id
  if records.is_compact(record) then
    redis.call('HSETNX', key, id, '')
  elseif redis.call('EXISTS', key) == 0 then
    return
  end
  redis.call('PEXPIRE', key, CONFIG.retention_ms)
  redis.call('ZADD', KEY.unfinished, now + CONFIG.lease_ms, id)
end

-- The only way into a final state: record, queues, target, batch, event and expiry together. `fields` are
-- written with it. The caller has compared state and lease. `unjudged`: the batch's stop rule ignores it.
local function end_import(id, record, state, fields, now, unjudged)
  local from = record.state
  fields.state = state
  fields.finished_at_ms = now
  for _, name in ipairs(PASSING) do
    fields[name] = false
  end
  if records.is_compact(record) then
    records.forget_place(record, fields)
  end
  if tonumber(record.doubts or 0) == 0 or record.job_id or fields.job_id then
    fields.listed_jobs, fields.listed_at_ms = false, false -- otherwise a retry needs them
  end
  local priority = record.priority
  records.put(id, record, fields)
  record.priority = priority
  redis.call('ZREM', KEY.expiring, id)
  if from then
    leave_queues(id, record)
    release_target(id, record, now)
    follow_late(id, record, now)
    queues.free_place(base.lane_of(record), now)
  end
  batches.count_batch(record, from, state, now)
  base.append_import_event(state, id, record, now)
  redis.call('PEXPIRE', KEY.import .. id, CONFIG.retention_ms)
  history.note(id, record, now, state, { error = record.error, job_id = record.job_id })
  redis.call('PEXPIRE', KEY.history .. id, CONFIG.retention_ms)
  if record.idempotency then
    redis.call('PEXPIRE', KEY.idempotency .. record.idempotency, CONFIG.retention_ms)
  end
  owe_tasks(id, record, now)
  if record.batch_id then
    if from and not unjudged then
      batches.judge_batch(record, state, now)
    end
    batches.complete_batch(record, now)
  end
end

-- End a cancelled import. No call may be in progress for it.
local function cancel_import(id, record, now)
  redis.call('ZREM', KEY.parked .. base.target_of(record), id)
  local was_held = record.batch_id and redis.call('ZREM', KEY.held .. record.batch_id, id) == 1
  local fields = { error = record.cancel_reason, doubt = false, doubt_error = false }
  end_import(id, record, 'cancelled', fields, now, was_held)
  redis.call('ZADD', KEY.unfinished, 'XX', now, id) -- cancelling publishes no tasks; a conductor does
end

-- Whether it is too late for an import to start.
local function is_expired(record, now)
  return now >= tonumber(record.expires_at_ms or math.huge)
end

-- Cancel waiting imports that have expired; look again soon at those for which a call may be in progress.
local function cancel_expired(now, most, again_ms)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.expiring, '-inf', now, 'LIMIT', 0, most)) do
    local record = records.read(id)
    if record.state == 'waiting' and not record.doubt and base.is_known(record) then
      records.put(id, record, { cancel_reason = 'expired' })
      cancel_import(id, record, now)
    elseif record.state == 'waiting' or record.state == 'starting' then
      redis.call('ZADD', KEY.expiring, now + again_ms, id)
    else
      redis.call('ZREM', KEY.expiring, id) -- it runs, and continues
    end
  end
end

-- Another task asks for the same import, so the later expiry applies.
local function extend_expiry(id, expires_at_ms)
  local key = KEY.import .. id
  local mine = tonumber(redis.call('HGET', key, 'expires_at_ms') or nil)
  if mine and not expires_at_ms then
    redis.call('HDEL', key, 'expires_at_ms')
    redis.call('ZREM', KEY.expiring, id)
  elseif mine and tonumber(expires_at_ms) > mine then
    redis.call('HSET', key, 'expires_at_ms', expires_at_ms)
    redis.call('ZADD', KEY.expiring, 'XX', expires_at_ms, id)
  end
end

-- Note that a Celery task ends with this import, besides its own. If the signature is empty, a worker creates
-- the task.
local function attach_task(id, task_id, signature)
  redis.call('HSET', KEY.tasks .. id, task_id, signature)
end

-- A job may have been started for a new import since `since`, so a worker must reconcile first.
local function put_in_doubt(record, since, error)
  record.first_start_at_ms = since
  record.doubt, record.doubt_error = 'lost', error
end

-- Write a new import that waits for its start: record, lane, batch, event, and its task.
local function accept_new(id, record, task_id, signature, now)
  record.sequence = string.format('%.0f', redis.call('INCR', KEY.sequence))
  record.accepted_at_ms = now
  record.state = 'waiting'
  record.format = RECORD.format
  batches.admit_to_lane(id, record, now)
  records.put(id, {}, record)
  if signature ~= '' then
    attach_task(id, task_id, signature)
  end
  if record.expires_at_ms then
    redis.call('ZADD', KEY.expiring, record.expires_at_ms, id)
  end
  batches.join_batch(id, record, record.sequence)
  batches.count_batch(record, nil, 'waiting', now)
  base.append_import_event('accepted', id, record, now)
  local lane = base.lane_of(record)
  redis.call('SADD', KEY.names, lane)
  base.schedule_lane(lane, now, now)
end

-- Write the record of an import that is rejected at admission, and note the task that ends with it.
local function reject_new(id, record, task_id, signature, now)
  attach_task(id, task_id, signature)
  local sequence = redis.call('INCR', KEY.sequence)
  local fields = {}
  for name, value in pairs(record) do
    fields[name] = value
  end
  record.state = nil
  fields.accepted_at_ms = now
  fields.format = base.format_of(record)
  batches.join_batch(id, record, sequence)
  end_import(id, record, 'rejected', fields, now)
end

-- The record if the claim is still the caller's, else nil: then its answer comes too late.
local function claimed_record(id, lease)
  local record = records.read(id)
  if record.lease ~= lease then
    return nil
  end
  return record
end

-- End a claim: a poll or a reconciliation is due at `due`, with `fields` written to the record.
local function reschedule(id, record, due, fields)
  local lane = base.lane_of(record)
  local queue = base.TERMINAL[record.state] and KEY.late or KEY.polls
  fields.lease = false
  records.put(id, record, fields)
  redis.call('ZREM', KEY.leases .. lane, id)
  redis.call('ZADD', queue .. lane, due, id)
end

return {
  look_again = look_again,
  unpark = unpark,
  release_target = release_target,
  owe_end = owe_end,
  learn_of_end = learn_of_end,
  end_import = end_import,
  cancel_import = cancel_import,
  is_expired = is_expired,
  cancel_expired = cancel_expired,
  extend_expiry = extend_expiry,
  attach_task = attach_task,
  put_in_doubt = put_in_doubt,
  accept_new = accept_new,
  reject_new = reject_new,
  claimed_record = claimed_record,
  reschedule = reschedule,
}
