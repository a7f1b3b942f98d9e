-- Record an import whose request is invalid: terminal from its first moment.
--
-- ARGV  1: JSON object: id, fields (the record's, as text), task_id and signature ('' where
--       a task must be made up, because no task of the producer's ends with the error)
-- Returns {'rejected' or 'known', id, record...}
-- Atomic, so that a message delivered twice is one rejected import with one event.

local args = cjson.decode(ARGV[1])
local now = now_ms()
local verdict = 'known'
if redis.call('EXISTS', KEY.import .. args.id) == 0 then
  verdict = 'rejected'
  reject_new(args.id, args.fields, args.task_id, args.signature, now)
end
local reply = redis.call('HGETALL', KEY.import .. args.id)
table.insert(reply, 1, args.id)
table.insert(reply, 1, verdict)
return reply
