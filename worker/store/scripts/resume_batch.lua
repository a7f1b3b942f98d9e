-- Let a stopped batch go on, or one that waits for its canaries; its failures so far are forgiven.
--
-- ARGV  1: JSON object: batch_id
-- Returns 1 when it was held back, else 0
-- Atomic, so that the batch resumes, and tells of it, once.
--
-- needs: base, batches

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local gate, pauses = unpack(redis.call('HMGET', KEY.batch .. args.batch_id, 'gate', 'pauses'))
if not gate then
  return 0
end
batches.open_batch(args.batch_id, now)
if gate == 'stopped' then
  base.append_event('batch.resumed', args.batch_id .. '/resumed/' .. pauses, args.batch_id, now,
    { batchId = args.batch_id })
end
return 1
