-- Resume a batch that is paused or waits for its canaries. Its stop rule forgets the failures so far.
--
-- ARGV  1: JSON object: batch_id
-- Returns JSON: resumed (whether its imports were held back)
-- Atomic, so that the batch resumes once, with one event.
--
-- needs: base, batches

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local gate, pauses = unpack(redis.call('HMGET', KEY.batch .. args.batch_id, 'gate', 'pauses'))
if gate then
  batches.open_batch(args.batch_id, now)
end
if gate == 'stopped' then
  base.append_event('batch.resumed', args.batch_id .. '/resumed/' .. pauses, args.batch_id, now,
    { batchId = args.batch_id })
end
return cjson.encode({ resumed = gate and true or false })
