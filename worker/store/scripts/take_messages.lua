-- Hand messages of the queue that producers fill on to the queue that Celery consumes, each of them noted
-- as delivered but not acknowledged, as kombu would note it a moment after it took it. Whoever dies in
-- that moment takes nothing along: kombu restores what nobody acknowledges within its visibility
-- time-out. (Formats: kombu.transport.redis, QoS.append and Channel._put.)
--
-- ARGV  1: JSON object: queues (lists of Redis, most urgent first), into (a list), room (messages that
--       `into` may hold), unacked (a hash), unacked_index (a sorted set), at (seconds, of the clock that
--       kombu's are)
-- Returns {taken, left, junk...}: how many went on, whether more are there, and texts that are no messages
-- Atomic, so that a message is always in a queue, or noted.

require_memory() -- else Celery would be handed what it can't take note of
local args = cjson.decode(ARGV[1])
local room = args.room - redis.call('LLEN', args.into)
local reply = { 0, 0 }

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
  while reply[1] < room do
    local text = redis.call('RPOP', queue)
    if not text then
      break
    end
    local tag, exchange, routing_key = delivery_of(text)
    if tag then
      local delivery = string.format('[%s,%s,%s]', text, cjson.encode(exchange), cjson.encode(routing_key))
      redis.call('ZADD', args.unacked_index, args.at, tag)
      redis.call('HSET', args.unacked, tag, delivery)
      redis.call('LPUSH', args.into, text)
      reply[1] = reply[1] + 1
    else
      reply[#reply + 1] = text
    end
  end
  reply[2] = math.max(reply[2], redis.call('EXISTS', queue))
end
return reply
