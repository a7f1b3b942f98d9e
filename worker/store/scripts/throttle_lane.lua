-- The remote side said 429: make no call of this class before it may be answered.
--
-- ARGV  1: JSON object: lane, call ('start' or 'poll'), granted_ms_ago (age of the call),
--       retry_after_ms (-1: not said), limit_type, backoff_ms, backoff_max_ms
-- Returns the milliseconds for which the lane is blocked now
-- Atomic, so that many late answers to calls sent before the block count as one.

local args = cjson.decode(ARGV[1])
local now = now_ms()
local key = KEY.lane .. args.lane
local call = args.call
local blocked_at, blocked_until, throttles = unpack(redis.call('HMGET', key,
  call .. '_blocked_at_ms', call .. '_blocked_until_ms', call .. '_throttles'))
blocked_until = tonumber(blocked_until or 0)
throttles = tonumber(throttles or 0)
if now - args.granted_ms_ago > tonumber(blocked_at or 0) then
  local pause = args.retry_after_ms
  if pause < 0 then
    pause = math.min(args.backoff_ms * 2 ^ math.min(throttles, 16), args.backoff_max_ms)
  end
  blocked_until = math.max(blocked_until, now + pause)
  redis.call('HSET', key, call .. '_blocked_at_ms', now, call .. '_throttles', throttles + 1)
elseif args.retry_after_ms > 0 then
  blocked_until = math.max(blocked_until, now + args.retry_after_ms)
end
redis.call('HSET', key,
  call .. '_blocked_until_ms', blocked_until,
  call .. '_tokens', 0, call .. '_tokens_at_ms', math.max(now, blocked_until),
  'last_429_at_ms', now, 'last_429_limit_type', args.limit_type)
redis.call('HINCRBY', key, 'throttled', 1)
return math.max(0, blocked_until - now)
