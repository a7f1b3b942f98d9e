-- Cancel an import: at once where it waits or runs; where a call is being made, or in doubt, as soon as it is
-- known what that call did. A job that runs goes on at the remote side; how it ends is only noted.
--
-- ARGV  1: JSON object: id, reason
-- Returns 'unknown', 'over', 'asked' (it will be) or 'cancelled'
-- Atomic, so that no start is made of an import that is told to be cancelled.
--
-- needs: base, history, imports

local args = cjson.decode(ARGV[1])
local record = base.hash_of(KEY.import .. args.id)
if not record.state then
  return 'unknown'
elseif base.TERMINAL[record.state] then
  return 'over'
end
local now = base.now_ms()
base.put(KEY.import .. args.id, record, { cancel_reason = args.reason })
if record.state == 'starting' then
  history.note(args.id, now, 'cancel_asked', { error = args.reason })
  return 'asked'
end
imports.cancel_import(args.id, record, now)
return 'cancelled'
