-- Record an import whose request is invalid; it has ended from the beginning.
--
-- ARGV  1: JSON object: id, fields (the record's, as text), task_id, signature ('' if a worker must create
--       the task, because no task of the producer ends with the error)
-- Returns JSON: verdict ('rejected', 'known' (the same was recorded before) or 'reused' (the id belongs to
--       another import; nothing was done)), id, record (its fields)
-- Atomic, so that a message that is delivered twice becomes one rejected import with one event.
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
  -- The task was shown as waiting a moment ago, and the import may have finished before that.
  imports.owe_end(args.id, args.task_id, now)
end
return cjson.encode({ verdict = verdict, id = args.id, record = base.hash_of(KEY.import .. args.id) })
