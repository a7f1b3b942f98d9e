-- The job is known: keep its id, schedule its first poll, append import.started.
--
-- ARGV  1: JSON object: id, lease, call (what the claim was for), grant, answered, job_id, operation,
--       status, delay_ms, created_ms_ago (how old the job is)
-- Returns 1, or 0 when the claim is no longer the caller's
-- Atomic, so that a jobId is never known without a poll being due, nor told twice.

local args = cjson.decode(ARGV[1])
local record = claimed_record(args.id, args.lease)
if not record or record.state ~= 'starting' then
  return 0
end
local exact = exact_ms()
local now = math.floor(exact)
local was_lost = record.doubt == 'lost'
count_batch(record, 'starting', 'running')
give_back(args.id, record, now + args.delay_ms, {
  state = 'running',
  job_id = args.job_id,
  operation = args.operation,
  status = args.status,
  started_at_ms = now,
  polls = 0,
  doubt = false,
  doubt_error = false,
  error = false,
  first_start_at_ms = was_lost and now - args.created_ms_ago or record.first_start_at_ms,
})
note(args.id, now, 'running', { job_id = args.job_id, adopted = args.call == 'reconcile' or nil })
append_import_event('started', args.id, record, now)
note_answer(lane_of(record), args, exact, args.call == 'start')
schedule_lane(lane_of(record), now + args.delay_ms, now)
if record.cancel_reason then
  cancel_import(args.id, record, now)
end
return 1
