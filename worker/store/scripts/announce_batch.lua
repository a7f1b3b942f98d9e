-- Say how many imports a batch will have at least, so that it isn't complete before they came.
--
-- ARGV  1: JSON object: batch_id, expected
-- Atomic, so that messages of one batch may arrive in any order.

local args = cjson.decode(ARGV[1])
local key = KEY.batch .. args.batch_id
local known = tonumber(redis.call('HGET', key, 'expected') or 0)
if args.expected > known then
  redis.call('HSET', key, 'expected', args.expected)
  redis.call('PERSIST', key)
end
return 0
