-- Read a batch: its counts, and the actual states of its imports.
--
-- ARGV  1: JSON object: batch_id
-- Returns JSON: now_ms, newest (the entry id of the newest event), batch (the hash), members (how many),
--       states (state -> imports of the batch), pttl, members_pttl, held, is_released, is_awaited (by its
--       schedule), is_indexed
-- Atomic, because the counts change with each import: three to four microseconds per member. It only reads.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local PAGE = 1000
local members = KEY.members .. args.batch_id

-- Members that belong to another batch, or have expired, are not counted.
local function count_states()
  local states = {}
  for start = 0, redis.call('ZCARD', members) - 1, PAGE do
    for _, id in ipairs(redis.call('ZRANGE', members, start, start + PAGE - 1)) do
      local state, batch_id = unpack(redis.call('HMGET', KEY.import .. id, 'state', 'batch_id'))
      if state and batch_id == args.batch_id then
        states[state] = (states[state] or 0) + 1
      end
    end
  end
  return states
end

local key = KEY.batch .. args.batch_id
local newest = redis.call('XREVRANGE', KEY.events, '+', '-', 'COUNT', 1)[1]
return cjson.encode({
  now_ms = base.now_ms(),
  newest = newest and newest[1] or '0-0',
  batch = base.hash_of(key),
  members = redis.call('ZCARD', members),
  states = count_states(),
  pttl = redis.call('PTTL', key),
  members_pttl = redis.call('PTTL', members),
  held = redis.call('ZCARD', KEY.held .. args.batch_id),
  is_released = redis.call('ZSCORE', KEY.releases, args.batch_id) and true or false,
  is_awaited = redis.call('ZSCORE', KEY.openings, args.batch_id) and true or false,
  is_indexed = redis.call('ZSCORE', KEY.batches, args.batch_id) and true or false,
})
