-- Change a batch's schedule for an operator.
--
-- ARGV  1: JSON object: batch_id, clear (whether to remove the old schedule), schedule (its new members:
--       start_at_ms, window, max_per_hour; those that are absent stay as they are)
-- Returns JSON: changed (false for an unknown batch, which is not created)
-- Atomic, so that each start obeys either the old schedule or the new one.
--
-- needs: base, schedules, batches

local args = cjson.decode(ARGV[1])
local key = KEY.batch .. args.batch_id
local now = base.now_ms()
local batch = base.hash_of(key)
if not next(batch) then
  return cjson.encode({ changed = false })
end
if args.clear then
  base.put(key, batch, { start_at_ms = false, window = false, max_per_hour = false, openings = false })
  schedules.forget(args.batch_id)
end
schedules.change(args.batch_id, batch, args.schedule, now)
batches.release_later(args.batch_id, now)
return cjson.encode({ changed = true })
