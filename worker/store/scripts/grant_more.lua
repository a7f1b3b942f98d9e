-- Grant a claim one more call: the next page of a list.
--
-- ARGV  1: JSON object: lane, grant (of the claim's first call)
-- Returns JSON: wait_ms (0 if the call is granted, else how long until it may be)
-- Atomic, so that no token is spent twice.
--
-- needs: base, limiters, lanes

local args = cjson.decode(ARGV[1])
local now = base.exact_ms()
local class = lanes.parse_grant(args.grant).class
local lane, defaults = base.hash_of(KEY.lane .. args.lane), base.hash_of(KEY.defaults)
local limiter = lanes.load_limiter(args.lane, lane, defaults, class, now)
local wait = 0
if limiters.available(limiter) > 0 then
  limiters.grant_call(limiter)
else
  wait = math.max(1, math.ceil(limiters.ready_at(limiter) - now))
end
lanes.save_limiter(limiter)
return cjson.encode({ wait_ms = wait })
