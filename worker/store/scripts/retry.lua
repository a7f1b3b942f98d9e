-- Retry an import that did not succeed: create an import with the same request. Each stores the other's id.
-- A batch of retries has the window and the hourly maximum of the batch that it repeats.
--
-- ARGV  1: JSON object: id, retry_id (the new import's), batch_id ('' if it joins none), fits (whether these
--       are valid ids)
-- Returns JSON: verdict, retry_id (the new import, or ''). The verdict is 'retried' or, if nothing was done,
--       'unknown', 'under_way', 'succeeded', 'already' (it was retried before), 'late' (its job succeeded
--       after the import had ended), 'invalid' (its request was invalid), 'too_long' or 'taken' (the new id)
-- Atomic, so that an import is retried once, however often it is requested.
--
-- needs: base, records, history, schedules, imports

local COPIED = { 'app_id', 'backend_environment_name', 'account', 'region', 'requested_operation',
  'request_json', 'fingerprint', 'priority', 'metadata', 'traceparent', 'tracestate' }

local function answer(verdict, retry_id)
  return cjson.encode({ verdict = verdict, retry_id = retry_id })
end

local args = cjson.decode(ARGV[1])
local key = KEY.import .. args.id
local old = records.read(args.id)
if not old.state then
  return answer('unknown', '')
elseif not base.TERMINAL[old.state] then
  return answer('under_way', '')
elseif old.state == 'succeeded' then
  return answer('succeeded', '')
elseif old.retried_by then
  return answer('already', old.retried_by)
elseif old.late_outcome == 'succeeded' then
  return answer('late', '')
elseif not records.was_accepted(old) and not old.refused then
  return answer('invalid', '') -- it was rejected at admission
elseif not args.fits then
  return answer('too_long', '')
elseif redis.call('EXISTS', KEY.import .. args.retry_id) == 1 then
  return answer('taken', '')
end
local record = { retry_of = args.id, batch_id = args.batch_id ~= '' and args.batch_id or nil }
for _, name in ipairs(COPIED) do
  record[name] = old[name]
end
if tonumber(old.doubts or 0) > 0 and not old.job_id then
  record.listed_jobs, record.listed_at_ms = old.listed_jobs, old.listed_at_ms
  imports.put_in_doubt(record, old.first_start_at_ms, string.format(SAY.start_unknown, args.id))
end
local now = base.now_ms()
if record.batch_id and old.batch_id then
  schedules.inherit(record.batch_id, old.batch_id, now)
end
records.put(args.id, old, { retried_by = args.retry_id })
history.note(args.id, old, now, 'retried', { retry_id = args.retry_id })
redis.call('PEXPIRE', KEY.history .. args.id, redis.call('PTTL', key))
imports.accept_new(args.retry_id, record, args.retry_id, '', now)
return answer('retried', args.retry_id)
