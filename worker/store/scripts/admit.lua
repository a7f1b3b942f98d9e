-- Admit an import: write its record, put it into its lane, count its batch, append import.accepted.
--
-- ARGV  1: JSON object: id, fields (the record's, as text; priority among them), idempotency (the digest of
--       the idempotencyKey, or ''), task_id, signature ('' if a worker must create the task at the end),
--       recover_since_ms (after a lost store, since when the import may have been started; else 0)
-- Returns JSON: verdict, id, record (its fields; null if it was accepted). The verdict is 'accepted', 'known'
--       (this id, or this key with the same body, was admitted before), 'reused' (this id with another body;
--       nothing was done) or 'rejected' (the key was used with another body)
-- Atomic, so that of two deliveries, or two ids with one key, exactly one becomes the import.
--
-- needs: base, batches, imports

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local id = args.id
local record = args.fields

local function answer(verdict, import_id)
  local found = verdict ~= 'accepted' and base.hash_of(KEY.import .. import_id) or cjson.null
  return cjson.encode({ verdict = verdict, id = import_id, record = found })
end

local function known(import_id)
  if record.batch_id then
    batches.count_known(id, record.batch_id, now) -- a member of the batch is counted only once
  end
  return answer('known', import_id)
end

if redis.call('EXISTS', KEY.import .. id) == 1 then
  local state, fingerprint = unpack(redis.call('HMGET', KEY.import .. id, 'state', 'fingerprint'))
  if fingerprint ~= record.fingerprint then
    return answer('reused', id)
  end
  if base.TERMINAL[state] and args.signature == '' then
    -- The task was shown as waiting a moment ago, and the import may have finished before that.
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
        imports.owe_end(earlier, args.task_id, now) -- nothing else would end that task
      end
      return known(earlier)
    end
    if state then
      record.error = string.format(SAY.key_reused, earlier)
      imports.reject_new(id, record, args.task_id, args.signature, now)
      return answer('rejected', id)
    end
  end
  redis.call('SET', KEY.idempotency .. args.idempotency, id)
  record.idempotency = args.idempotency
end

if args.recover_since_ms > 0 then
  imports.put_in_doubt(record, math.min(args.recover_since_ms, now), SAY.store_lost)
end
imports.accept_new(id, record, args.task_id, args.signature, now)
return answer('accepted', id)
