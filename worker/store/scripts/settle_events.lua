-- Record what became of events that a relay read for a sink. A relay whose lease has ended may still do so:
-- what it says about an event is true.
--
-- ARGV  1: JSON object: sink, group, delivered (a list of entries' ids), skipped (a list of those that the
--       sink does not want), resent (a list of the ids of parked events that were delivered), parked (a list;
--       each the id, the text, why it is parked, how many attempts were made, and whether it was parked
--       before), error (why the last attempt failed, '' if none has), disabled (why the sink takes no more
--       events, '' if it does), most (how many parked events are kept)
-- Returns JSON: dropped (how many parked events were removed because there were too many)
-- Atomic, so that an event that is acknowledged is delivered or parked.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local key = KEY.sink .. args.sink
local parked_key, resend_key = KEY.parked_events .. args.sink, KEY.resend .. args.sink
local now = string.format('%d', base.now_ms())

-- Each returns how many of the entries were still to be settled. This script may run twice.
local function acknowledge(ids)
  return #ids > 0 and redis.call('XACK', KEY.events, args.group, unpack(ids)) or 0
end

local function remove_parked(id)
  redis.call('ZREM', resend_key, id)
  return redis.call('XDEL', parked_key, id)
end

acknowledge(args.skipped)
local delivered = acknowledge(args.delivered)
for _, id in ipairs(args.resent) do
  delivered = delivered + remove_parked(id)
end
if delivered > 0 then
  redis.call('HINCRBY', key, 'delivered', delivered)
  redis.call('HSET', key, 'delivered_ms', now)
end

local dropped = 0
for _, each in ipairs(args.parked) do
  local id, text, reason, attempts, was_parked = unpack(each)
  local settled = was_parked and remove_parked(id) or not was_parked and acknowledge({ id })
  if settled == 1 then
    local length = redis.call('XLEN', parked_key)
    redis.call('XADD', parked_key, 'MAXLEN', '~', args.most, '*', 'event', text, 'reason', reason,
      'attempts', attempts, 'parked_ms', now)
    dropped = dropped + length + 1 - redis.call('XLEN', parked_key)
  end
end
if dropped > 0 then
  redis.call('HINCRBY', key, 'dropped', dropped)
end
if args.error ~= '' then
  redis.call('HSET', key, 'error', args.error, 'error_ms', now)
end
if args.disabled ~= '' then
  redis.call('HSET', key, 'disabled', args.disabled)
end
return cjson.encode({ dropped = dropped })
