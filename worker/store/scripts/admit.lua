-- Admit an import: write its record, put it into its lane, count its batch, append import.accepted.
--
-- ARGV  1: JSON object: id, fields (the record's, as text; priority among them), digest of the
--       idempotencyKey or '', task_id and signature ('' where a task must be made up at the end),
--       recover_since_ms (0, or since when it may have been started, in a store that was lost)
-- Returns {verdict, id, record...}: verdict is 'accepted', 'known' (this id, or this key with the
--       same body, was admitted before), 'reused' (this id with another body; nothing was done) or
--       'rejected' (the key was used with another body); the record follows as a flat list unless
--       it was accepted.
-- Atomic, so that of two deliveries, or two ids with one key, exactly one becomes the import.
--
-- needs: base, batches, imports

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local id = args.id
local record = args.fields

local function answer(verdict, import_id)
  local reply = redis.call('HGETALL', KEY.import .. import_id)
  table.insert(reply, 1, import_id)
  table.insert(reply, 1, verdict)
  return reply
end

local function known(import_id)
  if record.batch_id then
    batches.count_known(id, record.batch_id, now) -- not twice: a member of the batch is counted already
  end
  return answer('known', import_id)
end

if redis.call('EXISTS', KEY.import .. id) == 1 then
  local state, fingerprint = unpack(redis.call('HMGET', KEY.import .. id, 'state', 'fingerprint'))
  if fingerprint ~= record.fingerprint then
    return answer('reused', id)
  end
  if base.TERMINAL[state] and args.signature == '' then
    -- It was shown as waiting a moment ago, and may have finished before.
    imports.owe_end(id, args.task_id, now)
  end
  return known(id)
end

if args.idempotency ~= '' then
  local earlier = redis.call('GET', KEY.idempotency .. args.idempotency)
  if earlier then
    local state, fingerprint =
      unpack(redis.call('HMGET', KEY.import .. earlier, 'state', 'fingerprint'))
    if fingerprint == record.fingerprint then
      if not base.TERMINAL[state] then
        imports.attach_task(earlier, args.task_id, args.signature)
        imports.extend_expiry(earlier, record.expires_at_ms)
      elseif args.signature == '' then
        imports.owe_end(earlier, args.task_id, now) -- nobody else would end that task
      end
      return known(earlier)
    end
    if state then
      record.error = 'idempotencyKey: was used before, with another request, by import ' .. earlier
      imports.reject_new(id, record, args.task_id, args.signature, now)
      return answer('rejected', id)
    end
  end
  redis.call('SET', KEY.idempotency .. args.idempotency, id)
  record.idempotency = args.idempotency
end

if args.recover_since_ms > 0 then
  local why = 'the store was lost, and a start may have been made'
  imports.put_in_doubt(record, math.min(args.recover_since_ms, now), why)
end
imports.accept_new(id, record, args.task_id, args.signature, now)
return { 'accepted', id }
