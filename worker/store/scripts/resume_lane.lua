-- Reopen a lane for an operator, however it was paused.
--
-- ARGV  1: JSON object: lane
-- Returns JSON: resumed (whether the lane was paused before)
-- Atomic, so that the lane resumes once, with one event.
--
-- needs: base, health

local AT_ONCE = 1000

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local was_paused = health.resume(args.lane, now, true)
if was_paused then
  -- Imports that were delayed after a failed probe no longer have to wait for others.
  local delayed = KEY.delayed .. args.lane
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, now, '+inf', 'LIMIT', 0, AT_ONCE)) do
    redis.call('ZADD', delayed, now, id)
  end
end
return cjson.encode({ resumed = was_paused })
