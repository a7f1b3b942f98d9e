-- Which polls a lane makes first if its limit permits fewer than are due: those whose jobs are likeliest to
-- have ended since their last poll, as far as earlier jobs show. It looks at a sample of the due polls, so
-- that a claim costs no more if thousands are due.
--
-- needs: records, limiters, durations

local LOOKED_AT = 8 -- polls for each that is permitted; more would hardly find more ends
local MOST_LOOKED_AT = 200
local PATIENCE = 2 -- a poll waits at most so many times as long as in the order in which polls fall due

-- The chance that a poll finds the job over. An age or durations that are not known count as certainty.
local function chance(id, survivors_of, now)
  local record = records.read_some(id,
    { 'started_at_ms', 'unfinished_at_ms', 'adopted', 'requested_operation' })
  local survivors = survivors_of[durations.field_of(record)]
  if not survivors or record.adopted or not record.started_at_ms then
    return 1
  end
  local started = tonumber(record.started_at_ms)
  local from = tonumber(record.unfinished_at_ms or started) - started
  return durations.chance_of_end(survivors, from / 1000, (now - started) / 1000)
end

-- Evenly spaced polls of those from rank `first` on, the likeliest to find an end first.
local function sample(queue, first, behind, looked_at, survivors_of, exact)
  local found = {}
  local step = math.max(1, behind / looked_at)
  local phase = exact * 1000 % 1000 / 1000 -- other polls each time
  for rank = math.floor(phase * step), behind - 1, step do
    local id, due = unpack(redis.call('ZRANGE', queue, first + math.floor(rank), first + math.floor(rank),
      'WITHSCORES'))
    found[#found + 1] = { id = id, due = due, chance = chance(id, survivors_of, exact) }
  end
  table.sort(found, function(a, b)
    if a.chance ~= b.chance then
      return a.chance > b.chance
    end
    return tonumber(a.due) < tonumber(b.due)
  end)
  return found
end

-- Choose `most` of the `all` due polls of a lane. Returns a flat list: an id, the time at which its poll fell
-- due, and so on. `known` are the lane's facts.
local function likeliest(queue, known, limiter, most, all, exact)
  local survivors_of, is_known = {}, false
  for field, text in pairs(known) do
    if string.sub(field, 1, 9) == 'durations' then
      survivors_of[field] = durations.survivors_in(text)
      is_known = is_known or survivors_of[field] ~= nil
    end
  end
  local waits_ms = all / limiters.pace_of(limiter) * 1000
  local latest = is_known and exact - PATIENCE * waits_ms or exact
  local chosen = redis.call('ZRANGEBYSCORE', queue, '-inf', latest, 'WITHSCORES', 'LIMIT', 0, most)
  local first, left = #chosen / 2, most - #chosen / 2
  if is_known and left > 0 then
    local looked_at = math.max(left, math.min(LOOKED_AT * left, MOST_LOOKED_AT))
    local found = sample(queue, first, all - first, looked_at, survivors_of, exact)
    for n = 1, math.min(left, #found) do
      chosen[#chosen + 1], chosen[#chosen + 2] = found[n].id, found[n].due
    end
  end
  return chosen
end

return {
  likeliest = likeliest,
}
