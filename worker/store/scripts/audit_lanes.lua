-- Look at lanes: whether they have work, and when somebody is going to look at it.
--
-- ARGV  1: JSON object: lanes
-- Returns {now, facts...}: for each lane a JSON object with has_work, due (absent: nobody will), paused
-- Atomic, so that a lane that a claim is just done with is not taken for stranded. It only reads.
--
-- needs: base, queues

local args = cjson.decode(ARGV[1])
local reply = { base.now_ms() }
for _, lane in ipairs(args.lanes) do
  local has_work = queues.has_waiting(lane)
  for _, queue in ipairs({ KEY.delayed, KEY.polls, KEY.late, KEY.leases }) do
    has_work = has_work or redis.call('EXISTS', queue .. lane) == 1
  end
  reply[#reply + 1] = cjson.encode({
    has_work = has_work,
    due = tonumber(redis.call('ZSCORE', KEY.lanes, lane) or nil),
    paused = redis.call('HEXISTS', KEY.lane .. lane, 'paused_reason') == 1,
  })
end
return reply
