-- Read events for a sink as its relay: new ones, or (with `after`) those that were read before and are not
-- settled. Count the events that were trimmed off the stream before the sink's group had read them. An
-- entry's number is how many were ever appended up to it; `position` is the number of the last one read.
--
-- ARGV  1: JSON object: relay, sink, group, start (where a new group begins: '0' or '$'), count, after (an
--       entry's id, '' for new events), resending (how many parked events the relay is sending again)
-- Returns JSON: held (whether the sink is leased to this relay; otherwise nothing was read), entries (a list;
--       each the entry's id and its text), again (a list of the same, of parked events to be sent again),
--       trimmed (how many events this call found to be lost), disabled (whether the sink is; if so, nothing
--       was read)
-- Atomic, so that a relay whose lease has ended reads nothing, and each trimmed event is counted once.

local args = cjson.decode(ARGV[1])
local key = KEY.sink .. args.sink
local state = redis.call('HMGET', key, 'holder', 'position', 'disabled')
local held, disabled = state[1] == args.relay, state[3] and state[3] ~= ''
if not held or disabled then
  return cjson.encode({ held = held, entries = {}, again = {}, trimmed = 0, disabled = disabled })
end

local function stream_info()
  local flat, info = redis.call('XINFO', 'STREAM', KEY.events), {}
  for i = 1, #flat, 2 do
    info[flat[i]] = flat[i + 1]
  end
  return info
end

local function read(call)
  return call('XREADGROUP', 'GROUP', args.group, 'relay', 'COUNT', args.count, 'STREAMS', KEY.events,
    args.after == '' and '>' or args.after)
end

local position = tonumber(state[2])
local found = read(redis.pcall)
if type(found) == 'table' and found.err then -- there is no group yet, or none any more
  redis.call('XGROUP', 'CREATE', KEY.events, args.group, args.start, 'MKSTREAM')
  position = nil
  found = read(redis.call)
end

local info = stream_info()
local before = info['entries-added'] - info.length -- the number of the last entry that was trimmed
local entries, gone = {}, {}
for _, entry in ipairs(found and found[1][2] or {}) do
  if entry[2] then
    local fields = {}
    for i = 1, #entry[2], 2 do
      fields[entry[2][i]] = entry[2][i + 1]
    end
    entries[#entries + 1] = { entry[1], fields.event or '' }
  else
    gone[#gone + 1] = entry[1] -- it was read and not settled, and then trimmed
  end
end

local trimmed = #gone
if #gone > 0 then
  redis.call('XACK', KEY.events, args.group, unpack(gone))
end
if not position then
  position = args.start == '0' and before or info['entries-added'] - #entries
end
if args.after == '' then
  if #entries > 0 and info['first-entry'] and entries[1][1] == info['first-entry'][1] then
    trimmed = math.max(0, before - position)
    position = before
  end
  position = position + #entries
end
redis.call('HSET', key, 'position', string.format('%d', position))
if trimmed > 0 then
  redis.call('HINCRBY', key, 'trimmed', trimmed)
end

local again = {}
for _, id in ipairs(redis.call('ZRANGE', KEY.resend .. args.sink, 0, args.resending + args.count - 1)) do
  local parked = redis.call('XRANGE', KEY.parked_events .. args.sink, id, id)[1]
  if parked then
    again[#again + 1] = { id, parked[2][2] } -- `event` is its first field
  else
    redis.call('ZREM', KEY.resend .. args.sink, id)
  end
end
return cjson.encode({ held = held, entries = entries, again = again, trimmed = trimmed, disabled = false })
