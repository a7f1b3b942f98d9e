-- End an import that is under way.
--
-- ARGV  1: JSON object: id, lease, call, grant, answered, state, sources (states it may come from),
--       error, job_id, operation, status (an empty text keeps what the record holds)
-- Returns {} when the claim is no longer the caller's, else {1, record as a flat list, tasks as a
--       flat list of task id and signature}
-- Atomic, so that an import ends once, with one event, and its batch counts it once.
--
-- needs: base, answers, imports

local args = cjson.decode(ARGV[1])
local exact = base.exact_ms()
local now = math.floor(exact)
local record = imports.claimed_record(args.id, args.lease)
local comes_from = false
for _, source in ipairs(args.sources) do
  comes_from = comes_from or (record and record.state == source)
end
if not comes_from then
  return {}
end
local fields = { error = args.error ~= '' and args.error or false, doubt = false, doubt_error = false }
for _, name in ipairs({ 'job_id', 'operation', 'status' }) do
  if args[name] ~= '' then
    fields[name] = args[name]
  end
end
if fields.job_id and not record.started_at_ms then
  fields.started_at_ms = now
end
imports.end_import(args.id, record, args.state, fields, now)
answers.note_answer(base.lane_of(record), args, exact, args.call == 'start' and args.state ~= 'rejected')
return { 1, redis.call('HGETALL', KEY.import .. args.id), redis.call('HGETALL', KEY.tasks .. args.id) }
