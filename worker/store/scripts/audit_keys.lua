-- Read keys that belong to an import: their time to live, and the state of their import.
--
-- ARGV  1: JSON object: keys
-- Returns JSON: keys (for each its pttl and the state of the import, '' if there is none)
-- Atomic, so that a key and its import are read at one moment. It only reads.

local args = cjson.decode(ARGV[1])

-- The import that a key belongs to: the key's name or its value contains the id.
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

local found = {}
for number, key in ipairs(args.keys) do
  local owner = owner_of(key)
  local state = owner and redis.call('HGET', KEY.import .. owner, 'state') or ''
  found[number] = { pttl = redis.call('PTTL', key), state = state }
end
return cjson.encode({ keys = found })
