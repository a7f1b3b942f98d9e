-- What all scripts share: the clock, hashes, events, hints. Python loads the library in front of each script,
-- behind these local tables:
--   KEY     the key catalogue of worker/store/keys.py: name -> key or key prefix
--   CONFIG  retention_ms, events_max_length, lease_ms, settle_ms, source, format, operations
--   SHARES  the shares of worker/domain/shares.py
--   BINS    count, per_octave and enough: the bins of worker/domain/polling.py
--   SAY     the texts of worker/store/sentences.py
--   RECORD  format, piece_bytes, short, full and in_pieces, of worker/store/records.py
-- Nothing here reads a clock other than the server's.

-- Milliseconds since the epoch, with their fraction.
local function exact_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000
end

local function now_ms()
  return math.floor(exact_ms())
end

-- ISO 8601 of milliseconds since the epoch. The date follows Howard Hinnant, "chrono-Compatible Low-Level
-- Date Algorithms" (civil_from_days).
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

-- Write `fields` (a table; false removes a field) to a hash and to its copy in memory. Numbers are exact.
local function put(key, copy, fields)
  local set, gone = {}, {}
  for name, value in pairs(fields) do
    if value == false then
      copy[name] = nil
      gone[#gone + 1] = name
    else
      copy[name] = type(value) == 'number' and string.format('%.17g', value) or tostring(value)
      set[#set + 1] = name
      set[#set + 1] = copy[name]
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

-- `trace` is a record with the fields traceparent and tracestate, which the event passes on; nil for none.
local function append_event(type, id, subject, now, data, trace)
  redis.call('XADD', KEY.events, 'MAXLEN', '~', CONFIG.events_max_length, '*', 'event',
    cjson.encode({
      specversion = '1.0',
      id = id,
      source = CONFIG.source,
      type = type,
      subject = subject,
      time = iso_time(now),
      datacontenttype = 'application/json',
      dataschema = 'urn:amplify-import-worker:' .. type .. ':1',
      traceparent = trace and trace.traceparent,
      tracestate = trace and trace.tracestate,
      data = data,
    }))
end

local TERMINAL = { succeeded = true, failed = true, rejected = true, timed_out = true, cancelled = true }

-- `part` and `error` distinguish several events with the same name of one import.
local function append_import_event(name, id, record, now, part, error)
  local metadata = cjson.decode(record.metadata or '{}')
  append_event('import.' .. name, id .. '/' .. name .. (part and '/' .. part or ''),
    record.app_id .. '/' .. record.backend_environment_name, now, {
      importId = id,
      appId = record.app_id,
      backendEnvironmentName = record.backend_environment_name,
      jobId = text_or_null(record.job_id),
      operation = text_or_null(record.operation),
      status = text_or_null(record.status),
      error = text_or_null(error or record.error),
      outcome = TERMINAL[record.state] and record.state or cjson.null,
      attempts = tonumber(record.attempts or 0),
      acceptedAt = time_or_null(record.accepted_at_ms),
      startedAt = time_or_null(record.started_at_ms),
      finishedAt = time_or_null(record.finished_at_ms),
      account = text_or_null(record.account),
      region = text_or_null(record.region),
      batchId = text_or_null(record.batch_id),
      metadata = metadata,
    }, record)
end

-- Leave a hint, at most one at a time, that a conductor should look for work.
local function wake()
  if redis.call('EXISTS', KEY.wake) == 0 then
    redis.call('LPUSH', KEY.wake, '1')
  end
end

-- Make sure that a conductor looks at the lane by `due`.
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

-- The format of a record that need not be compact. Up to format 2, there was only one operation.
local function format_of(record)
  return record.requested_operation and 3 or 2
end

local STAND_BACK_MS = 1000 -- the time for which imports of later releases are left to newer workers

-- Whether this release can handle the import; otherwise it belongs to workers of a later release.
local function is_known(record)
  local operation = record.requested_operation
  return tonumber(record.format or 1) <= CONFIG.format
    and (not operation or CONFIG.operations[operation] == 1)
end

-- End here, with nothing done, if the server is out of memory. It refuses only commands that need memory, and
-- none once a script has written: a script that begins by removing something would be carried out.
local function require_memory()
  redis.call('SETRANGE', KEY.sequence, 0, '') -- writes nothing, but counts as a command that needs memory
end

return {
  exact_ms = exact_ms,
  now_ms = now_ms,
  iso_time = iso_time,
  hash_of = hash_of,
  put = put,
  append_event = append_event,
  TERMINAL = TERMINAL,
  append_import_event = append_import_event,
  wake = wake,
  schedule_lane = schedule_lane,
  lane_of = lane_of,
  target_of = target_of,
  format_of = format_of,
  is_known = is_known,
  STAND_BACK_MS = STAND_BACK_MS,
  require_memory = require_memory,
}
