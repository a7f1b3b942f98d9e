-- Set how many imports a batch will have at least, so that it isn't complete before they have arrived, and
-- set its stop rule and its schedule before the first of them arrives.
--
-- ARGV  1: JSON object: batch_id, expected, canary (0: none), stop_percent (-1: none), schedule (start_at_ms,
--       window, max_per_hour; each may be absent)
-- Returns JSON: {}
-- Atomic, so that the messages of a batch may arrive in any order. The rule and the schedule of the first one
-- apply.
--
-- needs: base, schedules, batches

local args = cjson.decode(ARGV[1])
local key = KEY.batch .. args.batch_id
local batch = base.hash_of(key)
local fields = {}
if args.expected > tonumber(batch.expected or 0) then
  fields.expected = args.expected
end
local is_new = not (batch.accepted or batch.expected)
if not (batch.accepted or batch.canary or batch.stop_percent) then
  if args.canary > 0 then
    fields.canary, fields.gate = args.canary, 'canary'
  end
  if args.stop_percent >= 0 then
    fields.stop_percent = args.stop_percent
  end
end
if next(fields) then
  base.put(key, batch, fields)
  batches.index_batch(args.batch_id, base.now_ms())
  if not batch.accepted then
    redis.call('PEXPIRE', key, CONFIG.retention_ms) -- until the first import arrives
  end
end
if is_new and next(args.schedule) then
  schedules.change(args.batch_id, batch, args.schedule, base.now_ms())
end
return '{}'
