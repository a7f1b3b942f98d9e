-- Say how many imports a batch will have at least, so that it isn't complete before they came, and
-- its stop rule, before the first of them comes.
--
-- ARGV  1: JSON object: batch_id, expected, canary (0: none), stop_percent (-1: none)
-- Returns 0
-- Atomic, so that messages of one batch may arrive in any order; the first one's rule holds.
--
-- needs: base

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
  if not batch.accepted then
    redis.call('PEXPIRE', key, CONFIG.retention_ms) -- until the first one comes
  end
end
return 0
