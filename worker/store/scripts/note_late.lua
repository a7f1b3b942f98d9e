-- Note how the job of an ended import ended after all, or that nobody knows it any more.
--
-- ARGV  1: JSON object: id, lease, call, grant, answered, outcome ('succeeded', 'failed' or 'unknown'),
--       status, error
-- Returns 1, or 0 when the claim is no longer the caller's
-- Atomic, so that the job is followed until its end is noted. The import's own end stays what it is.
--
-- needs: base, history, answers, imports

local args = cjson.decode(ARGV[1])
local record = imports.claimed_record(args.id, args.lease)
if not record or not base.TERMINAL[record.state] then
  return 0
end
local exact = base.exact_ms()
base.put(KEY.import .. args.id, record, {
  lease = false,
  late_outcome = args.outcome,
  late_status = args.status ~= '' and args.status or false,
  late_error = args.error ~= '' and args.error or false,
  late_at_ms = math.floor(exact),
})
history.note(args.id, math.floor(exact), 'late', { outcome = args.outcome, error = record.late_error })
redis.call('PEXPIRE', KEY.history .. args.id, redis.call('PTTL', KEY.import .. args.id))
redis.call('ZREM', KEY.leases .. base.lane_of(record), args.id)
if redis.call('HGET', KEY.target .. base.target_of(record), 'open_job') == record.job_id then
  redis.call('HDEL', KEY.target .. base.target_of(record), 'open_job')
end
answers.note_answer(base.lane_of(record), args, exact)
return 1
