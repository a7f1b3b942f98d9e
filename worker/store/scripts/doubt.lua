-- Note a doubt: before anything else happens to the import, the remote side is asked.
--
-- ARGV  1: JSON object: id, lease, call, grant, answered, doubt, error, delay_ms, in_outage (whether
--       the call failed because the remote side answers nobody: the attempt is not counted then)
-- Returns 1, or 0 when the claim is no longer the caller's
-- Atomic, so that the import keeps its target and can't be started again while in doubt.

local args = cjson.decode(ARGV[1])
local now = exact_ms()
local record = claimed_record(args.id, args.lease)
if not record or TERMINAL[record.state] then
  return 0
end
local fields = { doubt = args.doubt, doubt_error = args.error }
if not record.doubt then
  note(args.id, math.floor(now), 'doubt', { doubt = args.doubt, error = args.error })
end
if record.doubt then
  fields.polls = tonumber(record.polls or 0) + 1 -- asked before: ask less and less often
elseif args.doubt == 'unknown' then
  fields.doubts = tonumber(record.doubts or 0) + 1
end
if args.call == 'start' and args.in_outage then
  fields.attempts = math.max(0, tonumber(record.attempts) - 1)
end
give_back(args.id, record, math.floor(now) + args.delay_ms, fields)
note_answer(lane_of(record), args, now)
schedule_lane(lane_of(record), math.floor(now) + args.delay_ms, math.floor(now))
return 1
