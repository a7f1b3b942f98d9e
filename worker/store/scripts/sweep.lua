-- Find lanes that have work but are not scheduled, and wake them.
--
-- ARGV  1: JSON object: empty
-- Returns JSON: stranded (these lanes; {} if it is empty)
-- Atomic, so that a lane is not taken for stranded while a claim works on it.
--
-- needs: base, queues

local now = base.now_ms()
local stranded = {}
for _, name in ipairs(redis.call('SMEMBERS', KEY.names)) do
  if not redis.call('ZSCORE', KEY.lanes, name) and queues.has_work(name) then
    stranded[#stranded + 1] = name
    base.schedule_lane(name, now, now)
  end
end
return cjson.encode({ stranded = stranded })
