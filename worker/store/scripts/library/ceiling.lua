-- The ceiling: how many unfinished jobs AWS allows in a lane, learned from its refusals.
--
-- A 429 for too many jobs shows nothing about the rate. Starts wait until a job ends. From time to time one
-- more is tried; if it is accepted, the ceiling rises, in doubling steps. AWS may not say why it refuses. If
-- starts are refused repeatedly although calls were left out, and jobs are unfinished, a ceiling is
-- suspected. A start that is accepted once a job has ended confirms it; anything else refutes it.
--
-- These functions work on a copy of a lane's hash; the caller stores the fields that they return.

local TRY_MS, TRY_MAX_MS = 10000, 120000 -- between tries above the ceiling; doubles while they fail
local TRY_AGAIN_MS = 1000 -- after a try that succeeded
local STEP_MAX = 64
local SUSPECT_STREAK = 3 -- refusals in a row

-- How many jobs may be added to `under_way` unfinished ones, and whether that exceeds the ceiling.
local function room_under(lane, under_way, now)
  local ceiling = tonumber(lane.ceiling)
  if not ceiling then
    return math.huge, false
  elseif under_way < ceiling then
    return ceiling - under_way, false
  elseif now >= tonumber(lane.ceiling_try_at_ms) then
    return tonumber(lane.ceiling_step), true
  end
  return 0, false
end

-- Starts exceed the ceiling now: one such try at a time, and a larger one if it is accepted.
local function try_above(lane, now)
  return {
    ceiling_next_step = math.min(tonumber(lane.ceiling_step) * 2, STEP_MAX),
    ceiling_try_at_ms = now + tonumber(lane.ceiling_try_ms),
  }
end

local NO_CEILING = {
  ceiling = false, ceiling_step = false, ceiling_next_step = false,
  ceiling_try_ms = false, ceiling_try_at_ms = false, ceiling_suspected = false, ceiling_rate = false,
}

-- A start was refused because `under_way` jobs (not counting its own) are unfinished.
local function meet_ceiling(lane, under_way, above, now)
  local wait = above and math.min(tonumber(lane.ceiling_try_ms or TRY_MS) * 2, TRY_MAX_MS) or TRY_MS
  return {
    ceiling = under_way, ceiling_step = 1, ceiling_next_step = 1,
    ceiling_try_ms = wait, ceiling_try_at_ms = now + wait,
  }
end

-- Starts are refused in a row: return nil, or the fields of a suspected ceiling. `rate` is the rate to which
-- the refusals have lowered the limiter; it applies if the suspicion is refuted.
local function suspect_ceiling(lane, streak, rate, under_way, now)
  if lane.ceiling or lane.ceiling_refuted or streak < SUSPECT_STREAK or under_way < 1 then
    return nil
  end
  local fields = meet_ceiling(lane, under_way, false, now)
  fields.ceiling_suspected, fields.ceiling_rate = 1, rate
  return fields
end

-- A start was accepted; `above` says that it exceeded the ceiling. Returns fields, perhaps none.
local function pass_ceiling(lane, under_way, above, now)
  local fields = {}
  if lane.ceiling_refuted then
    fields.ceiling_refuted = false
  end
  if lane.ceiling_suspected and above then
    return NO_CEILING
  elseif lane.ceiling_suspected then
    fields.ceiling_suspected, fields.ceiling_rate = false, false
  end
  if lane.ceiling and above then
    fields.ceiling = math.max(under_way, tonumber(lane.ceiling))
    fields.ceiling_step = tonumber(lane.ceiling_next_step)
    fields.ceiling_try_ms, fields.ceiling_try_at_ms = TRY_MS, now + TRY_AGAIN_MS
  end
  return fields
end

return {
  room_under = room_under,
  try_above = try_above,
  NO_CEILING = NO_CEILING,
  meet_ceiling = meet_ceiling,
  suspect_ceiling = suspect_ceiling,
  pass_ceiling = pass_ceiling,
}
