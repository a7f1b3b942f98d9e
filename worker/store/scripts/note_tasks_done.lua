-- Note that tasks of ended imports have finished.
--
-- ARGV  1: JSON object: done (a list; each the import's id, the task's id, and whether the task was finished
--       as one that no producer sent: if a producer did send it, it has not finished)
-- Returns JSON: {}
-- Atomic, so that the last task to finish removes the import from the list of unfinished ones.

local args = cjson.decode(ARGV[1])
for _, each in ipairs(args.done) do
  local id, task_id, created = each[1], each[2], each[3]
  local key = KEY.tasks .. id
  if not created or redis.call('HGET', key, task_id) == '' then
    redis.call('HDEL', key, task_id)
  end
  if redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', KEY.unfinished, id)
  end
end
return '{}'
