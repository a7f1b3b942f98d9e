-- The job is known: store its id, schedule its first poll, append import.started.
--
-- ARGV  1: JSON object: answers (a list; of each answer what follows), id, lease, lane, call (what the claim
--       was for), grant, answered, observed, job_id, operation, status, updated (its updateTime, as written),
--       delay_ms, created_ms_ago (how old the job is)
-- Returns JSON: replies (a list, one for each answer, of what follows), error (why it could not be recorded;
--       then it is the only member), held (whether the claim was still the caller's; if not, the import stays
--       unchanged), paused, resumed (whether this answer paused or resumed the lane), throttled (after a 429:
--       counted, and the rate or the ceiling, possibly only suspected, that the lane now keeps to; otherwise
--       null)
-- Atomic, so that a known jobId always has its next poll, and import.started is appended once.
--
-- needs: base, history, health, answers, batches, imports

local function record_one(args, exact)
  local now = math.floor(exact)
  local reply = health.note(args, exact)
  local record = imports.claimed_record(args.id, args.lease)
  if not record or record.state ~= 'starting' then
    return reply
  end
  local adopted = args.call == 'reconcile'
  local was_lost = record.doubt == 'lost'
  batches.count_batch(record, 'starting', 'running', now)
  imports.reschedule(args.id, record, now + args.delay_ms, {
    state = 'running',
    job_id = args.job_id,
    adopted = adopted and 1,
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
  history.note(args.id, record, now, 'running', { job_id = args.job_id, adopted = adopted or nil })
  base.append_import_event('started', args.id, record, now)
  answers.note_answer(base.lane_of(record), args, exact, args.call == 'start')
  base.schedule_lane(base.lane_of(record), now + args.delay_ms, now)
  if record.cancel_reason then
    imports.cancel_import(args.id, record, now)
  end
  reply.held = true
  return reply
end

return cjson.encode({ replies = answers.record_each(cjson.decode(ARGV[1]).answers, record_one) })
