-- What every script shares. Loaded in front of each of them, after two locals that Python writes:
--   KEY     the key catalogue of worker/store/keys.py: name -> key or key prefix
--   CONFIG  retention_ms, events_max_length, source
-- Nothing here reads a clock other than the server's, and nothing decides: the engine does.

local TARGET_MEMORY_MS = 86400000 -- how long a free target remembers its last job
local PRIORITY_STRIDE = 1e14 -- priorities lie this far apart in the order of a lane

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- ISO 8601 of milliseconds since the epoch. Days to a civil date after Howard Hinnant,
-- "chrono-Compatible Low-Level Date Algorithms" (civil_from_days).
local function iso_time(ms)
  local seconds = math.floor(ms / 1000)
  local days = math.floor(seconds / 86400)
  local of_day = seconds - days * 86400
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524)
    - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(of_day / 3600), math.floor(of_day % 3600 / 60), of_day % 60, ms % 1000)
end

local function hash_of(key)
  local flat = redis.call('HGETALL', key)
  local hash = {}
  for i = 1, #flat, 2 do
    hash[flat[i]] = flat[i + 1]
  end
  return hash
end

-- Write `fields` (a table; false removes one) to a hash and to its copy in hand.
local function put(key, copy, fields)
  local set, gone = {}, {}
  for name, value in pairs(fields) do
    if value == false then
      copy[name] = nil
      gone[#gone + 1] = name
    else
      copy[name] = tostring(value)
      set[#set + 1] = name
      set[#set + 1] = tostring(value)
    end
  end
  if #set > 0 then
    redis.call('HSET', key, unpack(set))
  end
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
  end
end

local function text_or_null(text)
  if text == nil or text == '' then
    return cjson.null
  end
  return text
end

local function time_or_null(ms)
  if ms == nil then
    return cjson.null
  end
  return iso_time(tonumber(ms))
end

local function append_event(type, id, subject, now, data)
  redis.call('XADD', KEY.events, 'MAXLEN', '~', CONFIG.events_max_length, '*', 'event',
    cjson.encode({
      specversion = '1.0',
      id = id,
      source = CONFIG.source,
      type = type,
      subject = subject,
      time = iso_time(now),
      datacontenttype = 'application/json',
      data = data,
    }))
end

local TERMINAL = { succeeded = true, failed = true, rejected = true, timed_out = true, cancelled = true }

local function append_import_event(name, id, record, now)
  local metadata = cjson.decode(record.metadata or '{}')
  append_event('import.' .. name, id .. '/' .. name,
    record.app_id .. '/' .. record.backend_environment_name, now, {
      importId = id,
      appId = record.app_id,
      backendEnvironmentName = record.backend_environment_name,
      jobId = text_or_null(record.job_id),
      operation = text_or_null(record.operation),
      status = text_or_null(record.status),
      error = text_or_null(record.error),
      outcome = TERMINAL[record.state] and record.state or cjson.null,
      attempts = tonumber(record.attempts or 0),
      acceptedAt = time_or_null(record.accepted_at_ms),
      startedAt = time_or_null(record.started_at_ms),
      finishedAt = time_or_null(record.finished_at_ms),
      account = text_or_null(record.account),
      region = text_or_null(record.region),
      batchId = text_or_null(record.batch_id),
      metadata = metadata,
    })
end

-- Hint, at most one at a time, that a conductor should look for work.
local function wake()
  if redis.call('EXISTS', KEY.wake) == 0 then
    redis.call('LPUSH', KEY.wake, '1')
  end
end

-- Make sure that the lane is looked at by `due` at the latest.
local function schedule_lane(lane, due, now)
  redis.call('ZADD', KEY.lanes, 'LT', due, lane)
  if due <= now then
    wake()
  end
end

local function lane_of(record)
  return record.account .. '/' .. record.region
end

local function target_of(record)
  return lane_of(record) .. '/' .. record.app_id .. '/' .. record.backend_environment_name
end

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

-- Emit batch.completed once all that is accepted, and all that was announced, is terminal.
local function complete_batch(record, now)
  local key = KEY.batch .. record.batch_id
  local batch = hash_of(key)
  local finished = 0
  local data = { batchId = record.batch_id }
  for state in pairs(TERMINAL) do
    data[state] = tonumber(batch[state] or 0)
    finished = finished + data[state]
  end
  local accepted = tonumber(batch.accepted or 0)
  data.known = tonumber(batch.known or 0)
  data.total = accepted + data.known
  if finished < accepted or data.total < tonumber(batch.expected or 0) then
    return
  end
  append_event('batch.completed', record.batch_id .. '/completed/' .. data.total, record.batch_id, now,
    data)
  redis.call('HSET', key, 'completed_at_ms', now)
  redis.call('PEXPIRE', key, CONFIG.retention_ms)
  redis.call('PEXPIRE', KEY.members .. record.batch_id, CONFIG.retention_ms)
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
    redis.call('PERSIST', KEY.batch .. batch_id)
    redis.call('PERSIST', members)
    complete_batch({ batch_id = batch_id }, now)
  end
end

-- Take the import out of everything that makes conductors act on it.
local function leave_queues(id, lane)
  redis.call('ZREM', KEY.waiting .. lane, id)
  redis.call('ZREM', KEY.delayed .. lane, id)
  redis.call('ZREM', KEY.polls .. lane, id)
  redis.call('ZREM', KEY.leases .. lane, id)
end

-- Let the next import of the target compete for a start.
local function release_target(id, record, now)
  local target = target_of(record)
  local key = KEY.target .. target
  if redis.call('HGET', key, 'holder') ~= id then
    return
  end
  redis.call('HDEL', key, 'holder')
  if record.job_id then
    redis.call('HSET', key, 'last_job', record.job_id)
  end
  redis.call('PEXPIRE', key, TARGET_MEMORY_MS)
  local next = redis.call('ZPOPMIN', KEY.parked .. target)
  if next[1] then
    local lane = lane_of(record)
    redis.call('ZADD', KEY.waiting .. lane, next[2], next[1])
    schedule_lane(lane, now, now)
  end
end

-- Owe a task that must be made up the end of an import that is over already.
local function owe_end(id, task_id, now)
  local key = KEY.tasks .. id
  redis.call('HSET', key, task_id, '')
  redis.call('PEXPIRE', key, CONFIG.retention_ms)
  redis.call('ZADD', KEY.unfinished, now + CONFIG.lease_ms, id)
end

-- The one way into a terminal state: record, queues, target, batch, event and expiry together.
-- `fields` are written with it. The caller has compared state and lease.
local function end_import(id, record, state, fields, now)
  local key = KEY.import .. id
  local from = record.state
  fields.state = state
  fields.finished_at_ms = now
  fields.lease = false
  put(key, record, fields)
  if from then
    local lane = lane_of(record)
    leave_queues(id, lane)
    release_target(id, record, now)
    if redis.call('EXISTS', KEY.waiting .. lane) == 1 then
      schedule_lane(lane, now, now) -- a place under max_running may have come free
    end
  end
  count_batch(record, from, state)
  append_import_event(state, id, record, now)
  redis.call('PEXPIRE', key, CONFIG.retention_ms)
  if record.idempotency then
    redis.call('PEXPIRE', KEY.idempotency .. record.idempotency, CONFIG.retention_ms)
  end
  if redis.call('EXISTS', KEY.tasks .. id) == 1 then
    redis.call('PEXPIRE', KEY.tasks .. id, CONFIG.retention_ms)
    redis.call('ZADD', KEY.unfinished, now + CONFIG.lease_ms, id)
  end
  if record.batch_id then
    complete_batch(record, now)
  end
end

-- Owe a Celery task the end of this import. An empty signature: the task is made up at the end.
local function attach_task(id, task_id, signature)
  redis.call('HSET', KEY.tasks .. id, task_id, signature)
end

-- Write the record of an import that is over before it began. A task that asked for it itself ends
-- with the error; otherwise one is owed.
local function reject_new(id, record, task_id, signature, now)
  if signature == '' then
    attach_task(id, task_id, signature)
  end
  local sequence = redis.call('INCR', KEY.sequence)
  local fields = {}
  for name, value in pairs(record) do
    fields[name] = value
  end
  record.state = nil
  fields.accepted_at_ms = now
  join_batch(id, record, sequence)
  end_import(id, record, 'rejected', fields, now)
end

-- The record if the caller still holds its claim, else nil: its answer comes too late to count.
local function claimed_record(id, lease)
  local record = hash_of(KEY.import .. id)
  if record.lease ~= lease then
    return nil
  end
  return record
end

-- A call of this kind was answered in full: the lane is reachable and not throttled.
local function lane_answered(lane, call)
  redis.call('HDEL', KEY.lane .. lane, 'unreachable', call .. '_throttles')
end

-- Give a claim back: to `queue` (a key prefix) at `score`, with `fields` written to the record.
local function give_back(id, record, queue, score, fields)
  local lane = lane_of(record)
  fields.lease = false
  put(KEY.import .. id, record, fields)
  redis.call('ZREM', KEY.leases .. lane, id)
  redis.call('ZADD', queue .. lane, score, id)
end
