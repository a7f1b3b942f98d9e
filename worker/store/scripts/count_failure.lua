-- Count a call that got no answer, or none that makes sense; a full answer sets the count back.
--
-- ARGV  1: JSON object: lane, weight
-- Returns the sum of the weights in a row
-- Atomic by being one command; a script for the catalogue's sake.

local args = cjson.decode(ARGV[1])
return redis.call('HINCRBY', KEY.lane .. args.lane, 'failures', args.weight)
