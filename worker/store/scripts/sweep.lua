-- Find lanes that have work but are not scheduled, and wake them. Remove expired batches from the index, one
-- part of it at a time.
--
-- ARGV  1: JSON object: cursor (of the part of the index; '0' at first)
-- Returns JSON: stranded (these lanes; {} if it is empty), cursor (of the next part)
-- Atomic, so that a lane is not taken for stranded while a claim works on it, and a batch that comes back
-- stays in the index.
--
-- needs: base, queues, batches

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local stranded = {}
for _, name in ipairs(redis.call('SMEMBERS', KEY.names)) do
  if not redis.call('ZSCORE', KEY.lanes, name) and queues.has_work(name) then
    stranded[#stranded + 1] = name
    base.schedule_lane(name, now, now)
  end
end
return cjson.encode({ stranded = stranded, cursor = batches.sweep_index(args.cursor) })
