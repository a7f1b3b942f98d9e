-- Record an import whose request is invalid: terminal from its first moment.
--
-- ARGV  1: JSON object: id, fields (the record's, as text), task_id and signature ('' where
--       a task must be made up, because no task of the producer's ends with the error)
-- Returns {'rejected', 'known' (the same was recorded before) or 'reused' (the id is another
--       import's; nothing was done), id, record...}
-- Atomic, so that a message delivered twice is one rejected import with one event.
--
-- needs: base, imports

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local verdict = 'known'
local known = base.hash_of(KEY.import .. args.id)
if known.state and (known.state ~= 'rejected' or known.error ~= args.fields.error) then
  verdict = 'reused'
elseif not known.state then
  verdict = 'rejected'
  imports.reject_new(args.id, args.fields, args.task_id, args.signature, now)
elseif args.signature == '' then
  -- It was shown as waiting a moment ago, and may have finished before.
  imports.owe_end(args.id, args.task_id, now)
end
local reply = redis.call('HGETALL', KEY.import .. args.id)
table.insert(reply, 1, args.id)
table.insert(reply, 1, verdict)
return reply
