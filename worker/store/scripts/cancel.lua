-- Cancel an import: at once if it waits or runs. While a call is in progress, or its outcome is unknown, the
-- import is cancelled as soon as the outcome is known. If its job runs, the job continues, and its end is
-- only noted.
--
-- ARGV  1: JSON object: id, reason
-- Returns JSON: verdict ('unknown', 'over', 'asked' (it will be) or 'cancelled')
-- Atomic, so that no start of a cancelled import is made.
--
-- needs: base, records, history, imports

local args = cjson.decode(ARGV[1])
local record = records.read(args.id)
if not record.state then
  return cjson.encode({ verdict = 'unknown' })
elseif base.TERMINAL[record.state] then
  return cjson.encode({ verdict = 'over' })
end
local now = base.now_ms()
records.put(args.id, record, { cancel_reason = args.reason })
if record.state == 'starting' then
  history.note(args.id, record, now, 'cancel_asked', { error = args.reason })
  return cjson.encode({ verdict = 'asked' })
end
imports.cancel_import(args.id, record, now)
return cjson.encode({ verdict = 'cancelled' })
