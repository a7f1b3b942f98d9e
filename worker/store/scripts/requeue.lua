-- Give a start's claim back: the import waits for another start, in its old place in the lane.
--
-- ARGV  1: JSON object: id, lease, call, grant, answered, delay_ms, counted (whether the attempt
--       counts), conflict (whether it waits behind another job), error, why (else: a `what` of history),
--       has_listed (whether AWS was asked for the target's jobs), listed_jobs ('' or a JSON list of them)
-- Returns 1, or 0 when the claim is no longer the caller's
-- Atomic, so that the import is never in no queue, and its target free for others unless in doubt.
--
-- needs: base, history, answers, queues, batches, imports

local args = cjson.decode(ARGV[1])
local record = imports.claimed_record(args.id, args.lease)
if not record or record.state ~= 'starting' then
  return 0
end
local exact = base.exact_ms()
local now = math.floor(exact)
local lane = base.lane_of(record)
local fields = { state = 'waiting', doubt = false, doubt_error = false, undecided = false,
  unclear_jobs = false, polls = 0, lease = false }
fields.error = args.error ~= '' and args.error or false
if not args.counted and not record.unstarted then
  fields.attempts = math.max(0, tonumber(record.attempts or 0) - 1)
end
if args.conflict then
  fields.conflicts = tonumber(record.conflicts or 0) + 1
  fields.ask_first = 1 -- AWS need not refuse a start beside a job: the next one waits until none is listed
elseif args.has_listed then
  fields.listed_at_ms = now
  fields.listed_jobs = args.listed_jobs ~= '' and args.listed_jobs or false
end
if tonumber(record.doubts or 0) == 0 then
  fields.last_start_at_ms = false
  fields.first_start_at_ms = false -- no call can have taken effect: the deadline hasn't begun
end
history.note(args.id, now, args.counted and 'retry' or args.conflict and 'conflict' or args.why,
  { error = fields.error or nil, seconds = args.delay_ms / 1000 })
batches.count_batch(record, 'starting', 'waiting')
base.put(KEY.import .. args.id, record, fields)
redis.call('ZREM', KEY.leases .. lane, args.id)
if args.delay_ms > 0 then
  redis.call('ZADD', KEY.delayed .. lane, now + args.delay_ms, args.id)
else
  queues.requeue(args.id, record)
end
-- After a doubt, a job of ours may yet appear: nobody else may start one there, to be taken for it.
if tonumber(record.doubts or 0) == 0 then
  imports.release_target(args.id, record, now)
end
answers.note_answer(lane, args, exact)
base.schedule_lane(lane, now + args.delay_ms, now)
if queues.has_waiting(lane) then
  base.schedule_lane(lane, now, now) -- a place under max_running has come free
end
if record.cancel_reason then
  imports.cancel_import(args.id, record, now)
end
return 1
