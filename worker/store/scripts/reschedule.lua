-- Give the claim of a poll or an inquiry back: ask again after a while.
--
-- ARGV  1: JSON object: id, lease, call, grant, answered, delay_ms, status and operation ('' keeps the
--       record's), counted (whether it counts as a poll), stuck (whether to append import.stuck),
--       settled (whether the job was seen: no doubt is left), updated (its updateTime, as written),
--       suspicion ('', or why its status may be final: appends import.stuck as well)
-- Returns 1, or 0 when the claim is no longer the caller's
-- Atomic, so that a job that is followed always has its next poll, and import.stuck is told once.
--
-- needs: base, history, answers, imports

local args = cjson.decode(ARGV[1])
local record = imports.claimed_record(args.id, args.lease)
if not record then
  return 0
end
local exact = base.exact_ms()
local now = math.floor(exact)
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
if args.settled and record.doubt then
  history.note(args.id, now, 'found', { status = args.status })
end
if args.settled then
  fields.doubt = false
  fields.doubt_error = false
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
imports.give_back(args.id, record, now + args.delay_ms, fields)
if stuck then
  history.note(args.id, now, 'stuck', { status = record.status })
  base.append_import_event('stuck', args.id, record, now)
end
if suspected then
  history.note(args.id, now, 'suspected', { error = args.suspicion })
  base.append_import_event('stuck', args.id, record, now, 'status', args.suspicion)
end
answers.note_answer(base.lane_of(record), args, exact)
base.schedule_lane(base.lane_of(record), now + args.delay_ms, now)
return 1
