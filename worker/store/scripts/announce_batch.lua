-- Set how many imports a batch will have at least, so that it isn't complete before they have arrived, and
-- set its stop rule before the first of them arrives.
--
-- ARGV  1: JSON object: batch_id, expected, canary (0: none), stop_percent (-1: none)
-- Returns JSON: {}
-- Atomic, so that the messages of a batch may arrive in any order. The first one's rule applies.
--
-- needs: base, batches

local args = cjson.decode(ARGV[1])
local key = KEY.batch .. args.batch_id
local batch = base.hash_of(key)
local fields = {}
if args.expected > tonumber(batch.expected or 0) then
  fields.expected = args.expected
end
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
return '{}'
