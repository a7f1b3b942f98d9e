-- Look for lanes that have work but that nobody is going to look at, and wake them.
--
-- ARGV  1: JSON object: none of its members is read
-- Returns the lanes that were stranded
-- Atomic, so that a lane that a claim is just done with is not taken for stranded.
--
-- needs: base, queues

local now = base.now_ms()
local stranded = {}
for _, name in ipairs(redis.call('SMEMBERS', KEY.names)) do
  if not redis.call('ZSCORE', KEY.lanes, name) then
    local has_work = queues.has_waiting(name)
    for _, queue in ipairs({ KEY.delayed, KEY.polls, KEY.late, KEY.leases }) do
      has_work = has_work or redis.call('EXISTS', queue .. name) == 1
    end
    if has_work then
      stranded[#stranded + 1] = name
      base.schedule_lane(name, now, now)
    end
  end
end
return stranded
