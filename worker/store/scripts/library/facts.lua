-- What a lane has shown of AWS (worker/domain/facts.py), and how few imports start before it has.
--
-- needs: base

local PIONEERS = 4 -- imports under way at once in a lane that has shown nothing
-- how long that limit applies: a lane that shows nothing must not be blocked forever
local LEARNING_MS = 60000

local function of(name)
  return base.hash_of(KEY.facts .. name)
end

-- How many more imports may be under way while the lane is unknown, and until when; else math.huge.
local function room(known, lane, unfinished, now)
  local over = tonumber(lane.learning_from_ms or now) + LEARNING_MS
  if known.times or now >= over then
    return math.huge, math.huge
  end
  return math.max(0, PIONEERS - unfinished), over
end

-- Why the target's jobs are listed before an import starts; nil if they need not be. If the jobs' times are
-- not reliable, the list later shows which jobs are older.
local function doubt_before(known, record, target)
  if record.doubt then
    return record.doubt
  elseif tonumber(record.doubts or 0) > 0 then
    return record.ask_first and 'unknown' or nil
  elseif record.ask_first or (not record.listed_at_ms and (target.open_job or known.times ~= 'good')) then
    return 'before'
  end
  return nil
end

-- Keep what is new: words stay, the greatest number applies, and what was bad once stays bad.
local function learn(name, seen)
  local key = KEY.facts .. name
  local known = base.hash_of(key)
  local fields = {}
  for field, value in pairs(seen) do
    local is_ms = string.sub(field, -3) == '_ms' or string.sub(field, 1, 5) == 'left:'
    if field == 'lists_finished' then
      fields[field] = known[field] ~= '0' and value or nil
    elseif is_ms then
      fields[field] = math.max(value, tonumber(known[field] or 0))
    elseif field ~= 'times' and field ~= 'time_format' then
      fields[field] = value
    elseif known.times ~= 'bad' then
      fields[field] = value
    end
  end
  base.put(key, known, fields)
end

return {
  of = of,
  room = room,
  doubt_before = doubt_before,
  learn = learn,
}
