-- Try an import again that ended badly: a new import of the same request. Each keeps the other's id.
--
-- ARGV  1: JSON object: id, retry_id (the new import's), batch_id ('' where it joins none), fits (whether
--       these are possible ids)
-- Returns {verdict, id of the import that tries it again, or ''}: the verdict is 'retried' or, where
--       nothing was done, 'unknown', 'under_way', 'succeeded', 'already' (it was retried before),
--       'late' (its job succeeded after all), 'invalid' (its request was refused at the door),
--       'too_long' or 'taken' (the new id)
-- Atomic, so that an import is tried again once, however often and by how many it is asked for.
--
-- needs: base, history, imports

local COPIED = { 'app_id', 'backend_environment_name', 'account', 'region', 'request_json', 'fingerprint',
  'priority', 'metadata' }

local args = cjson.decode(ARGV[1])
local key = KEY.import .. args.id
local old = base.hash_of(key)
if not old.state then
  return { 'unknown', '' }
elseif not base.TERMINAL[old.state] then
  return { 'under_way', '' }
elseif old.state == 'succeeded' then
  return { 'succeeded', '' }
elseif old.retried_by then
  return { 'already', old.retried_by }
elseif old.late_outcome == 'succeeded' then
  return { 'late', '' }
elseif not old.sequence then
  return { 'invalid', '' } -- it was rejected at the door
elseif not args.fits then
  return { 'too_long', '' }
elseif redis.call('EXISTS', KEY.import .. args.retry_id) == 1 then
  return { 'taken', '' }
end
local record = { retry_of = args.id, batch_id = args.batch_id ~= '' and args.batch_id or nil }
for _, name in ipairs(COPIED) do
  record[name] = old[name]
end
if tonumber(old.doubts or 0) > 0 and not old.job_id then
  record.listed_jobs, record.listed_at_ms = old.listed_jobs, old.listed_at_ms
  local why = 'nobody learned what became of the start of import ' .. args.id
  imports.put_in_doubt(record, old.first_start_at_ms, why)
end
local now = base.now_ms()
base.put(key, old, { retried_by = args.retry_id })
history.note(args.id, now, 'retried', { retry_id = args.retry_id })
redis.call('PEXPIRE', KEY.history .. args.id, redis.call('PTTL', key))
imports.accept_new(args.retry_id, record, args.retry_id, '', now)
return { 'retried', args.retry_id }
