-- Note what AWS shows of an import that has succeeded.
--
-- ARGV  1: JSON object: answers (a list; of each answer what follows), id, lease, lane, call, grant,
--       answered, observed, verification ('confirmed', 'unconfirmed', which appends import.unverified, or
--       'unknown'), error
-- Returns JSON: replies (a list, one for each answer, of what follows), error (why it could not be recorded;
--       then it is the only member), held (whether the claim was still the caller's; if not, the import stays
--       unchanged), paused, resumed (whether this answer paused or resumed the lane), throttled (after a 429:
--       counted, and the rate or the ceiling, possibly only suspected, that the lane now keeps to; otherwise
--       null)
-- Atomic, so that the result is noted, and its event appended, once. The import's own end stays unchanged.
--
-- needs: base, records, history, health, answers, imports

local function record_one(args, exact)
  local now = math.floor(exact)
  local reply = health.note(args, exact)
  local record = imports.claimed_record(args.id, args.lease)
  if not record or record.state ~= 'succeeded' then
    return reply
  end
  records.put(args.id, record, {
    lease = false,
    verification = args.verification,
    verification_error = args.error ~= '' and args.error or false,
  })
  if args.verification ~= 'confirmed' then
    history.note(args.id, record, now, 'unverified', { error = args.error })
    redis.call('PEXPIRE', KEY.history .. args.id, redis.call('PTTL', KEY.import .. args.id))
  end
  if args.verification == 'unconfirmed' then
    base.append_import_event('unverified', args.id, record, now, nil, args.error)
  end
  redis.call('ZREM', KEY.leases .. base.lane_of(record), args.id)
  answers.note_answer(base.lane_of(record), args, exact)
  reply.held = true
  return reply
end

return cjson.encode({ replies = answers.record_each(cjson.decode(ARGV[1]).answers, record_one) })
