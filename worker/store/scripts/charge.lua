-- Take the tokens of calls that were made beyond the one that was granted: the pages of a list.
--
-- ARGV  1: JSON object: lane, grant (of the first call), calls
-- Returns 0
-- Atomic, so that no token is spent twice.

local args = cjson.decode(ARGV[1])
local grant = parse_grant(args.grant)
if grant then
  local lane, defaults = hash_of(KEY.lane .. args.lane), hash_of(KEY.defaults)
  local limiter = load_limiter(args.lane, lane, defaults, grant.class, exact_ms())
  limiter.tokens = limiter.tokens - args.calls
  limiter.granted = limiter.granted + args.calls
  save_limiter(limiter)
end
return 0
