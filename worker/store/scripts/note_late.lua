-- Note how the job of an import that had already ended is over, or that AWS no longer knows it.
--
-- ARGV  1: JSON object: answers (a list; of each answer what follows), id, lease, lane, call, grant,
--       answered, observed, outcome ('succeeded', 'failed' or 'unknown'), status, error
-- Returns JSON: replies (a list, one for each answer, of what follows), error (why it could not be recorded;
--       then it is the only member), held (whether the claim was still the caller's; if not, the import stays
--       unchanged), paused, resumed (whether this answer paused or resumed the lane), throttled (after a 429:
--       counted, and the rate or the ceiling, possibly only suspected, that the lane now keeps to; otherwise
--       null)
-- Atomic, so that the job is polled until its end is noted. The import's own end stays unchanged.
--
-- needs: base, records, history, health, answers, imports

local function record_one(args, exact)
  local now = math.floor(exact)
  local reply = health.note(args, exact)
  local record = imports.claimed_record(args.id, args.lease)
  if not record or not base.TERMINAL[record.state] then
    return reply
  end
  records.put(args.id, record, {
    lease = false,
    late_outcome = args.outcome,
    late_status = args.status ~= '' and args.status or false,
    late_error = args.error ~= '' and args.error or false,
    late_at_ms = now,
  })
  history.note(args.id, record, now, 'late', { outcome = args.outcome, error = record.late_error })
  redis.call('PEXPIRE', KEY.history .. args.id, redis.call('PTTL', KEY.import .. args.id))
  redis.call('ZREM', KEY.leases .. base.lane_of(record), args.id)
  if redis.call('HGET', KEY.target .. base.target_of(record), 'open_job') == record.job_id then
    redis.call('HDEL', KEY.target .. base.target_of(record), 'open_job')
  end
  answers.note_answer(base.lane_of(record), args, exact)
  reply.held = true
  return reply
end

return cjson.encode({ replies = answers.record_each(cjson.decode(ARGV[1]).answers, record_one) })
