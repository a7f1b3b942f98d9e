-- Note a doubt: before anything else happens to the import, the remote side is asked.
--
-- ARGV  1: JSON object: id, lease, call, grant, answered, doubt, error, delay_ms, in_outage (whether
--       the call failed because the remote side answers nobody: the attempt is not counted then),
--       undecided ('', or why a person must decide), unclear_jobs (JSON list of the jobs that may be its own)
-- Returns 1, or 0 when the claim is no longer the caller's
-- Atomic, so that the import keeps its target and can't be started again while in doubt.
--
-- needs: base, history, answers, imports

local args = cjson.decode(ARGV[1])
local now = base.exact_ms()
local record = imports.claimed_record(args.id, args.lease)
if not record or base.TERMINAL[record.state] then
  return 0
end
local fields = { doubt = args.doubt, doubt_error = args.error }
fields.undecided = args.undecided ~= '' and args.undecided or false
fields.unclear_jobs = args.undecided ~= '' and args.unclear_jobs or false
local is_news = fields.undecided and fields.undecided ~= record.undecided
local is_untold = fields.undecided and not record.told_undecided
if is_untold then
  fields.told_undecided = 1
end
if not record.doubt then
  history.note(args.id, math.floor(now), 'doubt', { doubt = args.doubt, error = args.error })
end
if record.doubt then
  fields.polls = tonumber(record.polls or 0) + 1 -- asked before: ask less and less often
elseif args.doubt == 'unknown' then
  fields.doubts = tonumber(record.doubts or 0) + 1
end
if args.call == 'start' and args.in_outage then
  fields.attempts = math.max(0, tonumber(record.attempts) - 1)
end
if is_news then
  history.note(args.id, math.floor(now), 'undecided', { error = args.undecided })
end
if is_untold then
  base.append_import_event('stuck', args.id, record, math.floor(now), 'undecided', args.undecided)
end
imports.give_back(args.id, record, math.floor(now) + args.delay_ms, fields)
answers.note_answer(base.lane_of(record), args, now)
base.schedule_lane(base.lane_of(record), math.floor(now) + args.delay_ms, math.floor(now))
return 1
