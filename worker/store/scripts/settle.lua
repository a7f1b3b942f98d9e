-- A task has finished natively: its result is stored, nothing more is owed to it.
--
-- ARGV  1: JSON object: id (the import's), task_id
-- Atomic, so that the last task to finish takes the import off the list of unfinished ones.

local args = cjson.decode(ARGV[1])
local key = KEY.tasks .. args.id
redis.call('HDEL', key, args.task_id)
if redis.call('EXISTS', key) == 0 then
  redis.call('ZREM', KEY.unfinished, args.id)
end
return 0
