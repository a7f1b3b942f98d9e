-- Grant a claim one more call: the next page of a list.
--
-- ARGV  1: JSON object: lane, grant (of the claim's first call)
-- Returns 0 when the call is granted, else the milliseconds until it may be
-- Atomic, so that no token is spent twice.

local args = cjson.decode(ARGV[1])
local now = exact_ms()
local class = parse_grant(args.grant).class
local limiter = load_limiter(args.lane, hash_of(KEY.lane .. args.lane), hash_of(KEY.defaults), class, now)
local wait = 0
if available(limiter) > 0 then
  grant_call(limiter)
else
  wait = math.max(1, math.ceil(ready_at(limiter) - now))
end
save_limiter(limiter)
return wait
