-- Hand messages of the queue that producers fill on to the queue that Celery consumes, each of them noted
-- as delivered but not acknowledged, as kombu would note it a moment after it took it. Whoever dies in
-- that moment takes nothing along: kombu restores what nobody acknowledges within its visibility
-- time-out. (Formats: kombu.transport.redis, QoS.append and Channel._put.) What is no message is kept
-- aside, and told of again and again until somebody is done with it.
--
-- ARGV  1: JSON object: queues (lists of Redis, most urgent first), into (a list), room (messages that
--       `into` may hold; no more than so many texts are looked at), unacked (a hash), unacked_index (a
--       sorted set), junk (a hash, digest -> text)
-- Returns {taken, left, now, junk}: how many went on, whether more are there, the time in seconds as a
--       text, and what is no message, as a flat list of digest and text
-- Atomic, so that a message is always in a queue, or noted.

require_memory() -- else Celery would be handed what it can't take note of
local args = cjson.decode(ARGV[1])
local room = args.room - redis.call('LLEN', args.into)
local now = string.format('%.6f', now_ms() / 1000)
local taken, set_aside, left = 0, 0, 0

-- Return the delivery tag, exchange and routing key of a message; nil for what is none.
local function delivery_of(text)
  local is_json, message = pcall(cjson.decode, text)
  local properties = is_json and type(message) == 'table' and message.properties
  local info = type(properties) == 'table' and properties.delivery_info
  if type(info) == 'table' and type(properties.delivery_tag) == 'string' then
    return properties.delivery_tag, info.exchange, info.routing_key
  end
  return nil
end

for _, queue in ipairs(args.queues) do
  while taken + set_aside < room do
    local text = redis.call('RPOP', queue)
    if not text then
      break
    end
    local tag, exchange, routing_key = delivery_of(text)
    if tag then
      local delivery = string.format('[%s,%s,%s]', text, cjson.encode(exchange), cjson.encode(routing_key))
      redis.call('ZADD', args.unacked_index, now, tag)
      redis.call('HSET', args.unacked, tag, delivery)
      redis.call('LPUSH', args.into, text)
      taken = taken + 1
    else
      redis.call('HSET', args.junk, redis.sha1hex(text), text)
      set_aside = set_aside + 1
    end
  end
  left = math.max(left, redis.call('EXISTS', queue))
end
return { taken, left, now, redis.call('HGETALL', args.junk) }
