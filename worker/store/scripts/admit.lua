-- Admit imports: write each record, put it into its lane, count its batch, append import.accepted. An invalid
-- request becomes a rejected import, which has ended from the beginning.
--
-- ARGV  1: JSON object: requests (a list of objects: id, fields (the record's, as text; with the error of an
--       invalid request, and with refused if only its account is to blame), task_id, signature ('' if a
--       worker must create the task at the end), idempotency (the digest of the idempotencyKey, or ''),
--       recover_since_ms (after a lost store, since when the import may have been started; else 0))
-- Returns JSON: admissions (a list, one for each request, in their order): each verdict, id, record (its
--       fields; null if it was accepted), is_new (whether it was ended by a script, and no worker has learned
--       of that before). The verdict is 'accepted', 'known' (this id, or this key with the
--       same body, was admitted before), 'reused' (the id belongs to another import; nothing was done) or
--       'rejected' (the request is invalid, or the key was used with another body)
-- Atomic, so that of two deliveries, or two ids with one key, exactly one becomes the import.
--
-- needs: base, records, batches, imports

local now = base.now_ms()

local function known(import_id, is_new, id, record)
  if record.batch_id then
    batches.count_known(id, record.batch_id, now) -- a member of the batch is counted only once
  end
  return 'known', import_id, is_new
end

-- Admit a request whose id was admitted before.
local function admit_again(request, record)
  local id = request.id
  local state, fingerprint = unpack(redis.call('HMGET', KEY.import .. id, 'state', 'fingerprint'))
  if fingerprint ~= record.fingerprint then
    return 'reused', id
  end
  local is_new = base.TERMINAL[state] and imports.learn_of_end(id, now)
  if base.TERMINAL[state] then
    -- The task was shown as waiting a moment ago, and the import may have finished before that.
    imports.owe_end(id, request.task_id, request.signature, now)
  end
  return known(id, is_new, id, record)
end

-- Admit a request whose idempotencyKey an earlier import has used. Returns nothing if that import is gone.
local function admit_with_used_key(request, record, earlier)
  local state, fingerprint = unpack(redis.call('HMGET', KEY.import .. earlier, 'state', 'fingerprint'))
  if fingerprint == record.fingerprint then
    local is_new = base.TERMINAL[state] and imports.learn_of_end(earlier, now)
    if not base.TERMINAL[state] then
      imports.attach_task(earlier, request.task_id, request.signature)
      imports.extend_expiry(earlier, record.expires_at_ms)
    else
      imports.owe_end(earlier, request.task_id, request.signature, now) -- nothing else would end that task
    end
    return known(earlier, is_new, request.id, record)
  end
  if state then
    record.error = string.format(SAY.key_reused, earlier)
    imports.reject_new(request.id, record, request.task_id, request.signature, now)
    return 'rejected', request.id
  end
end

-- Returns the verdict, the import's id, and whether its end is new.
local function admit(request, record)
  local id = request.id
  if redis.call('EXISTS', KEY.import .. id) == 1 then
    return admit_again(request, record)
  end
  if request.idempotency ~= '' then
    local earlier = redis.call('GET', KEY.idempotency .. request.idempotency)
    if earlier then
      local verdict, import_id, is_new = admit_with_used_key(request, record, earlier)
      if verdict then
        return verdict, import_id, is_new
      end
    end
    redis.call('SET', KEY.idempotency .. request.idempotency, id)
    record.idempotency = request.idempotency
  end
  if request.recover_since_ms > 0 then
    imports.put_in_doubt(record, math.min(request.recover_since_ms, now), SAY.store_lost)
  end
  imports.accept_new(id, record, request.task_id, request.signature, now)
  return 'accepted', id
end

-- Record an invalid request, or one whose account is refused. Returns the verdict and the import's id.
local function reject(request, record)
  local id = request.id
  local found = redis.call('HMGET', KEY.import .. id, 'state', 'error', 'fingerprint')
  local state, error = found[1], found[2]
  if record.refused and found[3] == record.fingerprint then
    return admit_again(request, record) -- its account may have been accepted then
  end
  if state and (state ~= 'rejected' or error ~= record.error) then
    return 'reused', id
  elseif not state then
    imports.reject_new(id, record, request.task_id, request.signature, now)
    return 'rejected', id
  end
  -- The task was shown as waiting a moment ago, and the import may have finished before that.
  imports.owe_end(id, request.task_id, request.signature, now)
  return 'known', id
end

local args = cjson.decode(ARGV[1])
local admissions = {}
for _, request in ipairs(args.requests) do
  local verdict, import_id, is_new = (request.fields.error and reject or admit)(request, request.fields)
  local record = verdict ~= 'accepted' and records.read(import_id) or cjson.null
  admissions[#admissions + 1] = { verdict = verdict, id = import_id, record = record,
    is_new = is_new or false }
end
return cjson.encode({ admissions = admissions })
