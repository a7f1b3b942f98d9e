-- Note a doubt: a worker must reconcile before anything else happens to the import.
--
-- ARGV  1: JSON object: answers (a list; of each answer what follows), id, lease, lane, call, grant,
--       answered, observed, doubt, error, delay_ms, undecided ('', or why an operator must decide),
--       unclear_jobs (JSON list of the jobs that may be its own)
-- Returns JSON: replies (a list, one for each answer, of what follows), error (why it could not be recorded;
--       then it is the only member), held (whether the claim was still the caller's; if not, the import stays
--       unchanged), paused, resumed (whether this answer paused or resumed the lane), throttled (after a 429:
--       counted, and the rate or the ceiling, possibly only suspected, that the lane now keeps to; otherwise
--       null)
-- Atomic, so that the import keeps its target, and can't be started again before the doubt is resolved.
--
-- needs: base, history, health, answers, imports

local function record_one(args, exact)
  local now = math.floor(exact)
  local reply, in_outage = health.note(args, exact)
  local record = imports.claimed_record(args.id, args.lease)
  if not record or base.TERMINAL[record.state] then
    return reply
  end
  local fields = { doubt = args.doubt, doubt_error = args.error }
  fields.undecided = args.undecided ~= '' and args.undecided or false
  fields.unclear_jobs = args.undecided ~= '' and args.unclear_jobs or false
  local is_news = fields.undecided and fields.undecided ~= record.undecided
  local is_unreported = fields.undecided and not record.told_undecided
  if is_unreported then
    fields.told_undecided = 1
  end
  if not record.doubt then
    history.note(args.id, record, now, 'doubt', { doubt = args.doubt, error = args.error })
  end
  if record.doubt then
    fields.polls = tonumber(record.polls or 0) + 1 -- this was a repeated check: check less and less often
  elseif args.doubt == 'unknown' then
    fields.doubts = tonumber(record.doubts or 0) + 1
  end
  if args.call == 'start' and in_outage then -- no call in the lane is answered, so the attempt does not count
    fields.attempts = math.max(0, tonumber(record.attempts) - 1)
  end
  if is_news then
    history.note(args.id, record, now, 'undecided', { error = args.undecided })
  end
  if is_unreported then
    base.append_import_event('stuck', args.id, record, now, 'undecided', args.undecided)
  end
  imports.reschedule(args.id, record, now + args.delay_ms, fields)
  answers.note_answer(base.lane_of(record), args, exact)
  base.schedule_lane(base.lane_of(record), now + args.delay_ms, now)
  reply.held = true
  return reply
end

return cjson.encode({ replies = answers.record_each(cjson.decode(ARGV[1]).answers, record_one) })
