-- End the wait for announced imports of a batch that have not arrived. A batch without any is deleted.
--
-- ARGV  1: JSON object: batch_id
-- Returns JSON: {}
-- Atomic, so that the batch completes once, with one event.
--
-- needs: base, schedules, batches

local args = cjson.decode(ARGV[1])
local key = KEY.batch .. args.batch_id
local batch = base.hash_of(key)
local came = tonumber(batch.accepted or 0) + tonumber(batch.known or 0)
if came == 0 then
  redis.call('DEL', key)
  redis.call('ZREM', KEY.batches, args.batch_id)
  schedules.forget(args.batch_id)
elseif tonumber(batch.expected or 0) > came then
  redis.call('HSET', key, 'expected', came)
  batches.complete_batch({ batch_id = args.batch_id }, base.now_ms())
end
return '{}'
