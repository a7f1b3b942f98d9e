-- Take ended imports whose tasks have not finished in time, in order to finish them. Imports of a later
-- release are left to its workers.
--
-- ARGV  1: JSON object: limit, delay_ms (until another worker may take them)
-- Returns JSON: ended (a list; {} if empty): each id, record (its fields), tasks (task id -> signature),
--       is_new (whether a script that finishes no tasks ended it, and no worker took it before)
-- Atomic, so that only one conductor at a time takes them.
--
-- needs: base, records

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local overdue = {}
local due = redis.call('ZRANGEBYSCORE', KEY.unfinished, '-inf', now, 'WITHSCORES', 'LIMIT', 0, args.limit)
for n = 1, #due, 2 do
  local id, due_ms = due[n], tonumber(due[n + 1])
  local record, tasks = records.read(id), base.hash_of(KEY.tasks .. id)
  if not next(record) or not next(tasks) then
    redis.call('ZREM', KEY.unfinished, id)
  elseif not base.is_known(record) then
    redis.call('ZADD', KEY.unfinished, now + base.STAND_BACK_MS, id)
  else
    redis.call('ZADD', KEY.unfinished, now + args.delay_ms, id)
    overdue[#overdue + 1] = { id = id, record = record, tasks = tasks,
      is_new = due_ms <= tonumber(record.finished_at_ms) }
  end
end
return cjson.encode({ ended = overdue })
