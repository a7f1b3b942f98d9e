-- Read lanes: whether they have work, and when a conductor will look at them.
--
-- ARGV  1: JSON object: lanes
-- Returns JSON: now_ms, lanes (for each: has_work, due (absent: never), paused)
-- Atomic, so that a lane is not taken for stranded while a claim works on it. It only reads.
--
-- needs: base, queues

local args = cjson.decode(ARGV[1])
local found = {}
for number, lane in ipairs(args.lanes) do
  found[number] = {
    has_work = queues.has_work(lane),
    due = tonumber(redis.call('ZSCORE', KEY.lanes, lane) or nil),
    paused = redis.call('HEXISTS', KEY.lane .. lane, 'paused_reason') == 1,
  }
end
return cjson.encode({ now_ms = base.now_ms(), lanes = found })
