-- Stop a batch by hand: what has not started waits until it is resumed.
--
-- ARGV  1: JSON object: batch_id, reason
-- Returns 1 when it went on before, else 0; a batch that nobody knows is left unknown
-- Atomic, so that a batch that stops itself meanwhile tells of it once.
--
-- needs: base, batches

local args = cjson.decode(ARGV[1])
local key = KEY.batch .. args.batch_id
if redis.call('EXISTS', key) == 0 or redis.call('HGET', key, 'gate') == 'stopped' then
  return 0
end
batches.stop_batch(args.batch_id, args.reason, base.now_ms())
return 1
