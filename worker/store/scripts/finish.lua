-- End an import that is under way.
--
-- ARGV  1: JSON object: answers (a list; of each answer what follows), id, lease, lane, call, grant,
--       answered, observed, state, sources (states it may come from), error, job_id, operation, status (an
--       empty text keeps the record's value), uncalled (whether the claimed start was not made), verify_ms
--       (after which AWS is to be asked what it shows of the import; 0: never)
-- Returns JSON: replies (a list, one for each answer, of what follows), error (why it could not be recorded;
--       then it is the only member), held (whether the claim was still the caller's; if not, the import stays
--       unchanged), paused, resumed (whether this answer paused or resumed the lane), throttled (after a 429:
--       counted, and the rate or the ceiling, possibly only suspected, that the lane now keeps to; otherwise
--       null), record (its fields) and tasks (task id -> signature); both are null if the claim was not the
--       caller's
-- Atomic, so that an import ends once, with one event, and its batch counts it once.
--
-- needs: base, durations, health, answers, imports

local function record_one(args, exact)
  local now = math.floor(exact)
  local reply = health.note(args, exact)
  reply.record, reply.tasks = cjson.null, cjson.null
  local record = imports.claimed_record(args.id, args.lease)
  local comes_from = false
  for _, source in ipairs(args.sources) do
    comes_from = comes_from or (record and record.state == source)
  end
  if not comes_from then
    return reply
  end
  local fields = { error = args.error ~= '' and args.error or false, doubt = false, doubt_error = false,
    verification = args.verify_ms > 0 and 'due' or false }
  for _, name in ipairs({ 'job_id', 'operation', 'status' }) do
    if args[name] ~= '' then
      fields[name] = args[name]
    end
  end
  if args.uncalled then
    fields.attempts = math.max(0, tonumber(record.attempts or 0) - 1)
    fields.first_start_at_ms, fields.last_start_at_ms = false, false
  end
  if fields.job_id and not record.started_at_ms then
    fields.started_at_ms = now
  end
  if args.call == 'poll' and args.status ~= '' and args.status ~= record.status then
    durations.note_end(record, now) -- unlike when the job is gone, or its end had been seen before
  end
  imports.end_import(args.id, record, args.state, fields, now)
  if args.verify_ms > 0 then
    imports.look_again(args.id, record, now, args.verify_ms)
  end
  answers.note_answer(base.lane_of(record), args, exact, args.call == 'start' and args.state ~= 'rejected')
  reply.held = true
  reply.record = record
  reply.tasks = base.hash_of(KEY.tasks .. args.id)
  return reply
end

return cjson.encode({ replies = answers.record_each(cjson.decode(ARGV[1]).answers, record_one) })
