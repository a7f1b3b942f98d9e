-- Look at keys that go with an import: how long they stay, and the state of their import.
--
-- ARGV  1: JSON object: keys
-- Returns for each {pttl, state of the import, '' where there is none}
-- Atomic, so that a key and its import are seen in one moment. It only reads.

local args = cjson.decode(ARGV[1])

-- The import that a key belongs to: named by the key, or by what it holds.
local function owner_of(key)
  for _, prefix in ipairs({ KEY.tasks, KEY.history }) do
    if string.sub(key, 1, #prefix) == prefix then
      return string.sub(key, #prefix + 1)
    end
  end
  if string.sub(key, 1, #KEY.idempotency) == KEY.idempotency then
    return redis.call('GET', key)
  end
  return nil
end

local reply = {}
for i, key in ipairs(args.keys) do
  local owner = owner_of(key)
  reply[i] = { redis.call('PTTL', key), owner and redis.call('HGET', KEY.import .. owner, 'state') or '' }
end
return reply
