-- Report that a relay is alive, prolong its leases, and lease it the sinks that are due to it and free. All
-- relays that are alive share the sinks evenly: one sink after another is due to the relay with the fewest so
-- far, among those that know the sink. If several have as few, the relay that has it keeps it. Sinks that few
-- relays know come first, so that relays with different files share well, too.
--
-- ARGV  1: JSON object: relay (its id), sinks (a list of the names that it knows), lease_ms
-- Returns JSON: held (a list of the sinks leased to it), surplus (those of them that are due to another one)
-- Atomic, so that no sink is leased to two relays.
--
-- needs: base

local args = cjson.decode(ARGV[1])
local now = base.now_ms()
local self = { till = now + args.lease_ms, sinks = args.sinks }
redis.call('HSET', KEY.relays, args.relay, cjson.encode(self))

local relays_of, load = {}, {} -- sink -> the relays that know it; relay -> how many sinks are due to it
for relay, text in pairs(base.hash_of(KEY.relays)) do
  local known = cjson.decode(text)
  if known.till < now then
    redis.call('HDEL', KEY.relays, relay)
  else
    load[relay] = 0
    for _, sink in ipairs(known.sinks) do
      relays_of[sink] = relays_of[sink] or {}
      table.insert(relays_of[sink], relay)
    end
  end
end

local names = {}
for sink in pairs(relays_of) do
  names[#names + 1] = sink
end

local function comes_first(one, other)
  local few, many = #relays_of[one], #relays_of[other]
  return few < many or few == many and one < other
end

table.sort(names, comes_first)

local due_to, holder_of = {}, {}
for _, sink in ipairs(names) do
  local holder = redis.call('HMGET', KEY.sink .. sink, 'holder', 'held_till_ms')
  holder_of[sink] = tonumber(holder[2] or 0) >= now and holder[1] or nil
  local best
  for _, relay in ipairs(relays_of[sink]) do
    if not best or load[relay] < load[best]
      or load[relay] == load[best] and (relay == holder_of[sink] or best ~= holder_of[sink] and relay < best)
    then
      best = relay
    end
  end
  due_to[sink] = best
  load[best] = load[best] + 1
end

local held, surplus = {}, {}
for _, sink in ipairs(args.sinks) do
  local is_mine = holder_of[sink] == args.relay
  if is_mine or not holder_of[sink] and due_to[sink] == args.relay then
    redis.call('HSET', KEY.sink .. sink, 'holder', args.relay,
      'held_till_ms', string.format('%d', now + args.lease_ms))
    redis.call('SADD', KEY.sinks, sink)
    held[#held + 1] = sink
    if due_to[sink] ~= args.relay then
      surplus[#surplus + 1] = sink
    end
  end
end
return cjson.encode({ held = held, surplus = surplus })
