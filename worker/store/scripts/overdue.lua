-- Take terminal imports whose tasks have not finished in time, to publish them again.
--
-- ARGV  1: JSON object: limit, delay_ms (to the publication after this one)
-- Returns a list of {id, record as a flat list, tasks as a flat list}
-- Atomic, so that one conductor at a time publishes them.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local overdue = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.unfinished, '-inf', now, 'LIMIT', 0, args.limit)) do
  local record = redis.call('HGETALL', KEY.import .. id)
  local tasks = redis.call('HGETALL', KEY.tasks .. id)
  if #record == 0 or #tasks == 0 then
    redis.call('ZREM', KEY.unfinished, id)
  else
    redis.call('ZADD', KEY.unfinished, now + args.delay_ms, id)
    overdue[#overdue + 1] = { id, record, tasks }
  end
end
return overdue
