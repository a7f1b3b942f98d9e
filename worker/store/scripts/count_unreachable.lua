-- Count a call that found nobody at the other end; a full answer sets the count back.
--
-- ARGV  1: JSON object: lane
-- Returns how many there were in a row
-- Atomic by being one command; a script for the catalogue's sake.

local args = cjson.decode(ARGV[1])
return redis.call('HINCRBY', KEY.lane .. args.lane, 'unreachable', 1)
