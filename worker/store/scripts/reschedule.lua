-- End the claim of a poll or a reconciliation: the next one is due after a while.
--
-- ARGV  1: JSON object: answers (a list; of each answer what follows), id, lease, lane, call, grant,
--       answered, observed, delay_ms, status, operation ('' keeps the record's value of both), counted
--       (whether it counts as a poll), stuck (whether to append import.stuck), settled (whether the job was
--       seen, so that no doubt is left), updated (its updateTime, as written), suspicion ('', or why its
--       status may be final: also appends import.stuck)
-- Returns JSON: replies (a list, one for each answer, of what follows), error (why it could not be recorded;
--       then it is the only member), held (whether the claim was still the caller's; if not, the import stays
--       unchanged), paused, resumed (whether this answer paused or resumed the lane), throttled (after a 429:
--       counted, and the rate or the ceiling, possibly only suspected, that the lane now keeps to; otherwise
--       null)
-- Atomic, so that a job always has its next poll, and import.stuck is appended once.
--
-- needs: base, history, health, answers, imports

local function record_one(args, exact)
  local now = math.floor(exact)
  local reply = health.note(args, exact)
  local record = imports.claimed_record(args.id, args.lease)
  if not record then
    return reply
  end
  local fields = {}
  if args.status ~= '' then
    fields.status = args.status
  end
  if args.operation ~= '' then
    fields.operation = args.operation
  end
  if args.counted then
    fields.polls = tonumber(record.polls or 0) + 1
  end
  if args.observed.throttle then
    fields.throttled = tonumber(record.throttled or 0) + 1
  end
  if args.settled and record.doubt then
    history.note(args.id, record, now, 'found', { status = args.status })
  end
  if args.settled then
    fields.doubt = false
    fields.doubt_error = false
    fields.unfinished_at_ms = now
    fields.undecided = false
    fields.unclear_jobs = false
    if args.status ~= record.status or args.updated ~= (record.updated or '') then
      fields.changed_at_ms = now
      fields.updated = args.updated
    end
  end
  local suspected = args.suspicion ~= '' and not record.suspicion
  if suspected then
    fields.suspicion = args.suspicion
  end
  local stuck = args.stuck and record.stuck ~= '1'
  if stuck then
    fields.stuck = 1
  end
  imports.reschedule(args.id, record, now + args.delay_ms, fields)
  if stuck then
    history.note(args.id, record, now, 'stuck', { status = record.status })
    base.append_import_event('stuck', args.id, record, now)
  end
  if suspected then
    history.note(args.id, record, now, 'suspected', { error = args.suspicion })
    base.append_import_event('stuck', args.id, record, now, 'status', args.suspicion)
  end
  answers.note_answer(base.lane_of(record), args, exact)
  base.schedule_lane(base.lane_of(record), now + args.delay_ms, now)
  if record.cancel_reason and record.state == 'running' then
    imports.cancel_import(args.id, record, now) -- a command of an earlier release could only note this
  end
  reply.held = true
  return reply
end

return cjson.encode({ replies = answers.record_each(cjson.decode(ARGV[1]).answers, record_one) })
