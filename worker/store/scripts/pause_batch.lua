-- Pause a batch for an operator: imports that have not started wait until it is resumed.
--
-- ARGV  1: JSON object: batch_id, reason
-- Returns JSON: stopped (whether it was not paused before; false for an unknown batch, which is not created)
-- Atomic, so that a batch that pauses automatically meanwhile has only one event.
--
-- needs: base, batches

local args = cjson.decode(ARGV[1])
local key = KEY.batch .. args.batch_id
local is_open = redis.call('EXISTS', key) == 1 and redis.call('HGET', key, 'gate') ~= 'stopped'
if is_open then
  batches.pause_batch(args.batch_id, args.reason, base.now_ms())
end
return cjson.encode({ stopped = is_open })
