-- Note that the result of a finished task is stored.
--
-- ARGV  1: JSON object: id (the import's), task_id
-- Returns JSON: {}
-- Atomic, so that the last task to finish removes the import from the list of unfinished ones.

local args = cjson.decode(ARGV[1])
local key = KEY.tasks .. args.id
redis.call('HDEL', key, args.task_id)
if redis.call('EXISTS', key) == 0 then
  redis.call('ZREM', KEY.unfinished, args.id)
end
return '{}'
