-- Carry out what an operator decided about an undecided import.
--
-- ARGV  1: JSON object: id, action ('adopt', 'start-again', 'succeed' or 'fail'), job_id (to adopt, else ''),
--       error (of an import that fails, else '')
-- Returns JSON: verdict ('resolved' or, if nothing was done, 'unknown', 'over', 'not_undecided', 'earlier'
--       (the job belongs to an earlier import of the target), 'running' (an import with a job can't be
--       started again))
-- Atomic, so that an answer that arrives later changes nothing.
--
-- needs: base, records, history, queues, batches, imports

local args = cjson.decode(ARGV[1])
local record = records.read(args.id)
if not record.state then
  return cjson.encode({ verdict = 'unknown' })
elseif base.TERMINAL[record.state] then
  return cjson.encode({ verdict = 'over' })
elseif not record.undecided then
  return cjson.encode({ verdict = 'not_undecided' })
elseif args.action == 'start-again' and record.state ~= 'starting' then
  return cjson.encode({ verdict = 'running' })
end
local earlier = redis.call('HGET', KEY.target .. base.target_of(record), 'jobs')
for _, job_id in ipairs(cjson.decode(earlier or '[]')) do
  if job_id == args.job_id then
    return cjson.encode({ verdict = 'earlier' })
  end
end

local now = base.now_ms()
local lane = base.lane_of(record)
local decided = { doubt = false, doubt_error = false, undecided = false, unclear_jobs = false, polls = 0 }

local function adopt()
  local is_new = record.state == 'starting'
  decided.job_id, decided.adopted, decided.state = args.job_id, 1, 'running'
  decided.changed_at_ms = now
  if is_new then
    decided.started_at_ms = now
    batches.count_batch(record, 'starting', 'running', now)
  end
  imports.reschedule(args.id, record, now, decided)
  if is_new then
    base.append_import_event('started', args.id, record, now)
  end
end

-- From now on, the jobs that might have been the import's own count as others'.
local function start_again()
  local jobs = cjson.decode(record.listed_jobs or '[]')
  for _, job in ipairs(cjson.decode(record.unclear_jobs or '[]')) do
    jobs[#jobs + 1] = job
  end
  decided.listed_jobs = #jobs > 0 and cjson.encode(jobs) or '[]'
  decided.state, decided.doubts, decided.ask_first, decided.lease = 'waiting', false, 1, false
  decided.first_start_at_ms, decided.last_start_at_ms = false, false
  batches.count_batch(record, 'starting', 'waiting', now)
  records.put(args.id, record, decided)
  redis.call('ZREM', KEY.leases .. lane, args.id)
  redis.call('ZREM', KEY.polls .. lane, args.id)
  queues.requeue(args.id, record)
  imports.release_target(args.id, record, now)
end

local adopted = args.job_id ~= '' and args.job_id or nil
history.note(args.id, record, now, 'resolved', { action = args.action, job_id = adopted })
if args.action == 'adopt' then
  adopt()
elseif args.action == 'start-again' then
  start_again()
else
  decided.error = args.error ~= '' and args.error or false
  imports.end_import(args.id, record, args.action == 'fail' and 'failed' or 'succeeded', decided, now)
  redis.call('ZADD', KEY.unfinished, 'XX', now, args.id) -- this script publishes no tasks; a conductor does
end
base.schedule_lane(lane, now, now)
if record.cancel_reason and not base.TERMINAL[record.state] then
  imports.cancel_import(args.id, record, now)
end
return cjson.encode({ verdict = 'resolved' })
