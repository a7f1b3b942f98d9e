-- Which import may start: its time has come, its batch is not paused, and no other import has its target.
--
-- needs: base, history, queues, batches, imports

-- Whether an import that was taken from its lane's queue may start now. If not, it waits elsewhere: for its
-- target, which one import at a time holds, or until its batch resumes.
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
  if holder == id then
    return true -- a doubt about it was resolved, so it still has the target
  elseif batches.is_paused(record) then
    batches.hold(id, record, now)
    local priority = not holder and imports.unpark(target)
    if priority then -- otherwise the imports that wait for the target would not move
      queues.grow_queue(queue, priority)
    end
    return false
  elseif holder then
    history.note(id, record, now, 'parked', { holder = holder })
    local rank = ({ high = 0, normal = 1, low = 2 })[record.priority]
    redis.call('ZADD', KEY.parked .. target, rank * 1e14 + tonumber(record.sequence), id)
    return false
  end
  redis.call('HSET', KEY.target .. target, 'holder', id)
  redis.call('PERSIST', KEY.target .. target)
  return true
end

return {
  may_start = may_start,
}
