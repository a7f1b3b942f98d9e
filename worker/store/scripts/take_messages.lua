-- Forward messages from the queue that producers fill to the queue that Celery consumes, and note each as
-- delivered but not acknowledged, as kombu would do a moment after taking it. If a worker dies in that
-- moment, nothing is lost: kombu restores what is not acknowledged within its visibility timeout. (Formats:
-- kombu.transport.redis, QoS.append and Channel._put.) Texts that are no messages are set aside, and returned
-- with every call until the caller has handled them.
--
-- ARGV  1: JSON object: queues (lists of Redis, most urgent first), into (a list), room (messages that `into`
--       may contain; also the most texts to look at), unacked (a hash), unacked_index (a sorted set), junk (a
--       hash, digest -> text)
-- Returns JSON: taken (how many were forwarded), left (whether more are there), now (seconds, as a text),
--       junk (texts that are no messages: digest -> text)
-- Atomic, so that a message is always in a queue, or noted.
--
-- needs: base

base.require_memory() -- otherwise Celery would get messages whose delivery can't be noted
local args = cjson.decode(ARGV[1])
local room = args.room - redis.call('LLEN', args.into)
local now = string.format('%.6f', base.now_ms() / 1000)
local taken, set_aside, left = 0, 0, false

local function is_text(value)
  return type(value) == 'string'
end

local function is_absent(value)
  return value == nil or value == cjson.null
end

-- Whether a decoded value is an object, as far as Lua can tell: an empty list passes, too.
local function is_object(value)
  return type(value) == 'table' and value[1] == nil
end

-- Whether kombu can read this body; otherwise it would end a worker's connection.
local function is_readable(body, encoding)
  if is_absent(encoding) then
    return is_text(body)
  end
  return encoding == 'base64' and is_text(body) and #body % 4 == 0
    and string.find(body, '^[%w+/]*=?=?$') ~= nil
end

-- Whether kombu can restore a message with this route; otherwise it would end a worker's connection.
local function is_route(exchange, routing_key)
  if not (is_text(exchange) and is_text(routing_key)) then
    return false
  elseif exchange == '' or exchange == args.queues[1] then -- workers declare this route themselves
    return routing_key == args.queues[1]
  end
  return redis.call('EXISTS', '_kombu.binding.' .. exchange) == 1
end

-- Return the delivery tag, exchange and routing key of a message; nil if the text is no message.
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
  left = left or redis.call('EXISTS', queue) == 1
end
return cjson.encode({ taken = taken, left = left, now = now, junk = base.hash_of(args.junk) })
