-- Which import may start: its time has come, its batch allows a start, and no other import has its target.
--
-- needs: base, records, history, queues, schedules, batches, imports

-- Whether an import that was taken from its lane's queue may start now. If not, it waits elsewhere: for its
-- target, which one import at a time holds, or until its batch allows a start. Returns its batch's schedule
-- as well, if there is one.
local function may_start(id, record, queue, now)
  if not record.state then
    return false -- it was deleted
  elseif not base.is_known(record) then
    redis.call('ZADD', KEY.delayed .. queue.name, now + base.STAND_BACK_MS, id)
    return false
  elseif tonumber(record.not_before_ms or 0) > now then
    redis.call('ZADD', KEY.delayed .. queue.name, record.not_before_ms, id)
    return false
  elseif imports.is_expired(record, now) and not record.doubt then
    redis.call('ZADD', KEY.delayed .. queue.name, now + base.STAND_BACK_MS, id) -- it is cancelled from there
    return false
  end
  if record.cancel_reason and not record.doubt then
    imports.cancel_import(id, record, now) -- a command of an earlier release could only note this
    return false
  end
  local target = base.target_of(record)
  local holder = redis.call('HGET', KEY.target .. target, 'holder')
  local gate, schedule
  if record.batch_id then
    gate, schedule = schedules.read(record.batch_id)
  end
  local ready_at = schedule and schedules.ready_at(schedule, now) or now
  -- A start that was in doubt keeps its target, so a pause does not hold it back. A closed window does.
  if ready_at > now or (gate == 'stopped' and holder ~= id) then
    batches.hold_back(id, record, gate, schedule, ready_at, now)
    local priority = not holder and imports.unpark(target)
    if priority then -- otherwise the imports that wait for the target would not move
      queues.grow_queue(queue, priority)
    end
    return false
  elseif holder == id then
    return true, schedule
  elseif holder then
    history.note(id, record, now, 'parked', { holder = holder })
    local rank = ({ high = 0, normal = 1, low = 2 })[record.priority]
    redis.call('ZADD', KEY.parked .. target, rank * 1e14 + tonumber(record.sequence), id)
    return false
  end
  redis.call('HSET', KEY.target .. target, 'holder', id)
  redis.call('PERSIST', KEY.target .. target)
  return true, schedule
end

-- Record that a worker is about to start an import that may start.
local function start(id, record, schedule, now)
  records.put(id, record, {
    state = 'starting',
    attempts = tonumber(record.attempts or 0) + 1,
    first_start_at_ms = record.first_start_at_ms or now,
    last_start_at_ms = now,
    unstarted = false,
  })
  history.note(id, record, now, 'start', { attempt = tonumber(record.attempts) })
  batches.count_batch(record, 'waiting', 'starting', now)
  if schedule then
    schedules.count_start(schedule, now)
  end
end

return {
  may_start = may_start,
  start = start,
}
