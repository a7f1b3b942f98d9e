-- The order in which a lane's imports start: fair between priorities, and within one between batches.
--
-- Self-clocked fair queueing (Golestani, INFOCOM 1994), twice. Within a priority, each import takes a turn
-- after the last one of its batch, and not before the current turn: if a batch of ten comes after one of a
-- hundred thousand, it gets every other start. Between priorities, the one with the lowest turn is next; each
-- has its share.
--
-- needs: base

local PRIORITIES = { 'high', 'normal', 'low' }
local ROUND = 1e6 -- an order is a turn, and within it the order of admission

-- Put an import into its lane behind all others of its batch. Sets record.order; the caller stores it.
local function enqueue(id, record)
  local lane = base.lane_of(record)
  local queue = lane .. ':' .. record.priority
  local batch = record.batch_id or ''
  local served = redis.call('HGET', KEY.lane .. lane, 'served_' .. record.priority)
  local last = redis.call('ZSCORE', KEY.flows .. queue, batch)
  local turn = math.max(tonumber(served or 0), tonumber(last or 0)) + 1
  redis.call('ZADD', KEY.flows .. queue, turn, batch)
  record.order = string.format('%.0f', turn * ROUND + tonumber(record.sequence) % ROUND)
  redis.call('ZADD', KEY.waiting .. queue, record.order, id)
end

-- Put an import back into its lane, in its old place.
local function requeue(id, record)
  redis.call('ZADD', KEY.waiting .. base.lane_of(record) .. ':' .. record.priority, record.order, id)
end

local function has_waiting(lane)
  for _, priority in ipairs(PRIORITIES) do
    if redis.call('EXISTS', KEY.waiting .. lane .. ':' .. priority) == 1 then
      return true
    end
  end
  return false
end

-- A place under max_running or the ceiling has become free; a conductor looks if imports wait for one.
local function free_place(lane, now)
  if redis.call('HEXISTS', KEY.lane .. lane, 'crowded') == 1 then
    base.schedule_lane(lane, now, now)
  end
end

-- If no import waits, every turn has come, except those of imports that have left the queue.
local function forget_flows(lane, priority)
  if redis.call('EXISTS', KEY.waiting .. lane .. ':' .. priority) == 0 then
    redis.call('DEL', KEY.flows .. lane .. ':' .. priority)
  end
end

-- Open a lane's queues in order to take imports out; `lane` is its hash.
local function open_queue(name, lane)
  local queue = { name = name, size = 0, sizes = {}, turns = {}, served = {} }
  queue.turn = tonumber(lane.turn or 0)
  for _, priority in ipairs(PRIORITIES) do
    queue.sizes[priority] = redis.call('ZCARD', KEY.waiting .. name .. ':' .. priority)
    queue.size = queue.size + queue.sizes[priority]
    queue.turns[priority] = tonumber(lane['turn_' .. priority])
  end
  return queue
end

-- Note that an import was put into an open queue.
local function grow_queue(queue, priority)
  queue.size = queue.size + 1
  queue.sizes[priority] = queue.sizes[priority] + 1
end

-- The priority that is next. A priority that was empty takes its turn now.
local function next_priority(queue)
  local best
  for _, priority in ipairs(PRIORITIES) do
    if queue.sizes[priority] > 0 then
      queue.turns[priority] = queue.turns[priority] or queue.turn + 1 / SHARES.priorities[priority]
      if not best or queue.turns[priority] < queue.turns[best] then
        best = priority
      end
    end
  end
  return best
end

-- Take out the next import; nil if none waits.
local function pop_waiting(queue)
  local priority = next_priority(queue)
  if not priority then
    return nil
  end
  local popped = redis.call('ZPOPMIN', KEY.waiting .. queue.name .. ':' .. priority)
  queue.size = queue.size - 1
  queue.sizes[priority] = queue.sizes[priority] - 1
  queue.turn = queue.turns[priority]
  queue.turns[priority] = queue.turn + 1 / SHARES.priorities[priority]
  queue.served[priority] = math.max(queue.served[priority] or 0, math.floor(tonumber(popped[2]) / ROUND))
  return popped[1]
end

-- Store the turns, and forget batches whose last turn has come.
local function close_queue(queue, lane)
  if not next(queue.served) then
    return
  end
  local fields = { turn = queue.turn }
  for _, priority in ipairs(PRIORITIES) do
    local turn = queue.sizes[priority] > 0 and queue.turns[priority]
    if turn or lane['turn_' .. priority] then
      fields['turn_' .. priority] = turn
    end
  end
  for priority, served in pairs(queue.served) do
    served = math.max(served, tonumber(lane['served_' .. priority] or 0))
    fields['served_' .. priority] = string.format('%.0f', served)
    redis.call('ZREMRANGEBYSCORE', KEY.flows .. queue.name .. ':' .. priority, '-inf', served)
    if queue.sizes[priority] == 0 then
      forget_flows(queue.name, priority)
    end
  end
  base.put(KEY.lane .. queue.name, lane, fields)
end

-- Whether a lane has imports that wait, run, or have a job that is followed.
local function has_work(lane)
  local found = has_waiting(lane)
  for _, queue in ipairs({ KEY.delayed, KEY.polls, KEY.late, KEY.leases }) do
    found = found or redis.call('EXISTS', queue .. lane) == 1
  end
  return found
end

return {
  enqueue = enqueue,
  requeue = requeue,
  free_place = free_place,
  has_work = has_work,
  forget_flows = forget_flows,
  open_queue = open_queue,
  grow_queue = grow_queue,
  pop_waiting = pop_waiting,
  close_queue = close_queue,
}
