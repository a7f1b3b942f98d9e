-- Note how the job of an ended import ended after all, or that nobody knows it any more.
--
-- ARGV  1: JSON object: id, lease, call, grant, answered, outcome ('succeeded', 'failed' or 'unknown'),
--       status, error
-- Returns 1, or 0 when the claim is no longer the caller's
-- Atomic, so that the job is followed until its end is noted. The import's own end stays what it is.

local args = cjson.decode(ARGV[1])
local record = claimed_record(args.id, args.lease)
if not record or not TERMINAL[record.state] then
  return 0
end
local exact = exact_ms()
put(KEY.import .. args.id, record, {
  lease = false,
  late_outcome = args.outcome,
  late_status = args.status ~= '' and args.status or false,
  late_error = args.error ~= '' and args.error or false,
  late_at_ms = math.floor(exact),
})
note(args.id, math.floor(exact), 'late', { outcome = args.outcome, error = record.late_error })
redis.call('PEXPIRE', KEY.history .. args.id, redis.call('PTTL', KEY.import .. args.id))
redis.call('ZREM', KEY.leases .. lane_of(record), args.id)
note_answer(lane_of(record), args, exact)
return 1
