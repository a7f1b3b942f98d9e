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
--
-- needs: base

base.require_memory() -- else Celery would be handed what it can't take note of
local args = cjson.decode(ARGV[1])
local room = args.room - redis.call('LLEN', args.into)
local now = string.format('%.6f', base.now_ms() / 1000)
local taken, set_aside, left = 0, 0, 0

local function is_text(value)
  return type(value) == 'string'
end

local function is_absent(value)
  return value == nil or value == cjson.null
end

-- Whether a decoded value is an object, as far as can be told: an empty list is one, too.
local function is_object(value)
  return type(value) == 'table' and value[1] == nil
end

-- Whether kombu can read this body; what it can't would end a worker's connection.
local function is_readable(body, encoding)
  if is_absent(encoding) then
    return is_text(body)
  end
  return encoding == 'base64' and is_text(body) and #body % 4 == 0
    and string.find(body, '^[%w+/]*=?=?$') ~= nil
end

-- Whether kombu can take a message back that came by this route; else it ends a worker's connection.
local function is_route(exchange, routing_key)
  if not (is_text(exchange) and is_text(routing_key)) then
    return false
  elseif exchange == '' or exchange == args.queues[1] then -- workers declare their own
    return routing_key == args.queues[1]
  end
  return redis.call('EXISTS', '_kombu.binding.' .. exchange) == 1
end

-- Return the delivery tag, exchange and routing key of a message; nil for what is none.
local function delivery_of(text)
  local is_json, message = pcall(cjson.decode, text)
  if not (is_json and is_object(message) and is_object(message.properties)) then
    return nil
  end
  local properties, headers = message.properties, message.headers
  local info = properties.delivery_info
  if not (is_text(properties.delivery_tag) and is_object(info)
      and (is_absent(headers) or is_object(headers))
      and is_route(info.exchange, info.routing_key)
      and is_readable(message.body, properties.body_encoding)) then
    return nil
  end
  return properties.delivery_tag, info.exchange, info.routing_key
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
