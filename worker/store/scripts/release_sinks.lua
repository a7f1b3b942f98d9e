-- End a relay's leases, so that other relays take over at once.
--
-- ARGV  1: JSON object: relay, sinks (a list), leaves (whether the relay itself ends)
-- Returns JSON: {}
-- Atomic, so that no lease of another relay is ended.

local args = cjson.decode(ARGV[1])
for _, sink in ipairs(args.sinks) do
  if redis.call('HGET', KEY.sink .. sink, 'holder') == args.relay then
    redis.call('HDEL', KEY.sink .. sink, 'holder', 'held_till_ms')
  end
end
if args.leaves then
  redis.call('HDEL', KEY.relays, args.relay)
end
return '{}'
