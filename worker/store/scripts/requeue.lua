-- Requeue an import after a start: it waits for another start, in its old place in the lane.
--
-- ARGV  1: JSON object: answers (a list; of each answer what follows), id, lease, lane, call, grant,
--       answered, observed, delay_ms, error, why (a `what` of history; only with 'retry' the attempt counts;
--       with 'conflict' the import waits behind another job), listed_jobs (with 'not_started', AWS was asked
--       for the target's jobs: a JSON list of them, or '')
-- Returns JSON: replies (a list, one for each answer, of what follows), error (why it could not be recorded;
--       then it is the only member), held (whether the claim was still the caller's; if not, the import stays
--       unchanged), paused, resumed (whether this answer paused or resumed the lane), throttled (after a 429:
--       counted, and the rate or the ceiling, possibly only suspected, that the lane now keeps to; otherwise
--       null)
-- Atomic, so that the import is always in a queue, and its target is free for others unless a job may appear.
--
-- needs: base, records, history, health, answers, queues, batches, imports

local function record_one(args, exact)
  local now = math.floor(exact)
  local reply = health.note(args, exact)
  local record = imports.claimed_record(args.id, args.lease)
  if not record or record.state ~= 'starting' then
    return reply
  end
  local lane = base.lane_of(record)
  local fields = { state = 'waiting', doubt = false, doubt_error = false, undecided = false,
    unclear_jobs = false, polls = 0, lease = false }
  fields.error = args.error ~= '' and args.error or false
  if args.why ~= 'retry' and not record.unstarted then
    fields.attempts = math.max(0, tonumber(record.attempts or 0) - 1)
  end
  if args.why == 'conflict' then
    fields.conflicts = tonumber(record.conflicts or 0) + 1
    -- AWS may accept a start beside another job, so the next one waits until no job is listed
    fields.ask_first = 1
  elseif args.why == 'not_started' then
    fields.listed_at_ms = now
    fields.listed_jobs = args.listed_jobs ~= '' and args.listed_jobs or false
  end
  if tonumber(record.doubts or 0) == 0 then
    fields.last_start_at_ms = false
    fields.first_start_at_ms = false -- no call can have taken effect, so the deadline has not begun
  end
  if args.observed.throttle then
    fields.throttled = tonumber(record.throttled or 0) + 1
  end
  history.note(args.id, record, now, args.why,
    { error = fields.error or nil, seconds = args.delay_ms / 1000 })
  batches.count_batch(record, 'starting', 'waiting', now)
  records.put(args.id, record, fields)
  redis.call('ZREM', KEY.leases .. lane, args.id)
  if args.delay_ms > 0 then
    redis.call('ZADD', KEY.delayed .. lane, now + args.delay_ms, args.id)
  else
    queues.requeue(args.id, record)
  end
  -- If the outcome of a start was unknown, our job may still appear. No other import may start one there,
  -- because it could be taken for that job.
  if tonumber(record.doubts or 0) == 0 then
    imports.release_target(args.id, record, now)
  end
  answers.note_answer(lane, args, exact)
  base.schedule_lane(lane, now + args.delay_ms, now)
  queues.free_place(lane, now)
  if record.cancel_reason then
    imports.cancel_import(args.id, record, now)
  end
  reply.held = true
  return reply
end

return cjson.encode({ replies = answers.record_each(cjson.decode(ARGV[1]).answers, record_one) })
