-- Note the accounts that a worker accepts. Forget those that no worker has published for a while.
--
-- ARGV  1: JSON object: accounts (names or patterns), memory_ms (how long an account is remembered)
-- Returns JSON: published (how many accounts are noted)
-- Atomic, so that a reader never sees a part of a worker's accounts.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
for _, account in ipairs(args.accounts) do
  redis.call('ZADD', KEY.accounts, now, account)
end
redis.call('ZREMRANGEBYSCORE', KEY.accounts, '-inf', now - args.memory_ms)
redis.call('PEXPIRE', KEY.accounts, args.memory_ms)
return cjson.encode({ published = redis.call('ZCARD', KEY.accounts) })
