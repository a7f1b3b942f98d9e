-- Take ended imports whose tasks have not finished in time, in order to publish the tasks again.
--
-- ARGV  1: JSON object: limit, delay_ms (to the publication after this one)
-- Returns JSON: ended (a list; {} if it is empty): each id, record (its fields), tasks (task id -> signature)
-- Atomic, so that only one conductor at a time publishes them.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local overdue = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.unfinished, '-inf', now, 'LIMIT', 0, args.limit)) do
  local record, tasks = base.hash_of(KEY.import .. id), base.hash_of(KEY.tasks .. id)
  if not next(record) or not next(tasks) then
    redis.call('ZREM', KEY.unfinished, id)
  else
    redis.call('ZADD', KEY.unfinished, now + args.delay_ms, id)
    overdue[#overdue + 1] = { id = id, record = record, tasks = tasks }
  end
end
return cjson.encode({ ended = overdue })
