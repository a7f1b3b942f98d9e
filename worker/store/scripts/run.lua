-- The job is known: keep its id, schedule its first poll, append import.started.
--
-- ARGV  1: JSON object: id, lease, call (what the claim was for), grant, answered, job_id, operation,
--       status, updated (its updateTime, as written), delay_ms, created_ms_ago (how old the job is)
-- Returns 1, or 0 when the claim is no longer the caller's
-- Atomic, so that a jobId is never known without a poll being due, nor told twice.
--
-- needs: base, history, answers, batches, imports

local args = cjson.decode(ARGV[1])
local record = imports.claimed_record(args.id, args.lease)
if not record or record.state ~= 'starting' then
  return 0
end
local exact = base.exact_ms()
local now = math.floor(exact)
local was_lost = record.doubt == 'lost'
batches.count_batch(record, 'starting', 'running')
imports.give_back(args.id, record, now + args.delay_ms, {
  state = 'running',
  job_id = args.job_id,
  operation = args.operation,
  status = args.status,
  updated = args.updated,
  started_at_ms = now,
  changed_at_ms = now,
  polls = 0,
  doubt = false,
  doubt_error = false,
  undecided = false,
  unclear_jobs = false,
  error = false,
  first_start_at_ms = was_lost and now - args.created_ms_ago or record.first_start_at_ms,
})
history.note(args.id, now, 'running', { job_id = args.job_id, adopted = args.call == 'reconcile' or nil })
base.append_import_event('started', args.id, record, now)
answers.note_answer(base.lane_of(record), args, exact, args.call == 'start')
base.schedule_lane(base.lane_of(record), now + args.delay_ms, now)
if record.cancel_reason then
  imports.cancel_import(args.id, record, now)
end
return 1
