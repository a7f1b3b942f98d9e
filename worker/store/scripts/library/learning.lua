-- How a limiter learns the remote side's limit from the answers. Pure, like limiters.lua. The choice and its
-- figures: docs/decisions/0006.
--
-- The remote side is modeled as a token bucket. A 429 shows that the bucket is empty. So the calls accepted
-- between two 429s are the tokens that flowed in meanwhile, to within one call: accepted / time is the rate.
-- The longer the time, the more exact it is.
--
-- A limiter *seeks*: answered calls raise its pace until a 429 comes. Then it *tracks*: in each cycle the
-- pace swings from a little below the rate to a little above it. So the bucket gathers a few tokens and never
-- overflows, and one 429 ends the cycle and measures the rate again. The better the rate is known, the longer
-- are the cycles, and the smaller is the swing.
--
-- needs: limiters

local GAIN, GAIN_SHARE = 0.65, 0.25 -- an answer raises a seeking pace by this, or by this share of it
local FOUND_SHARE = 0.7 -- when a seek meets a 429, the rate is taken to be this share of the pace
local LEAN = 0.5 -- an uncertain rate is tried on its upper side: too high shows at once, too low never shows
local SWING_PER_SPREAD = 1.2
local SWING_SMALL = 0.03 -- enough if the bucket is too small to even out anything
local SPAN_MAX = 500 -- calls in the longest cycle, but
local SPAN_MAX_SECONDS = 60 -- it takes no longer than this,
local SPAN_SLOW = 20 -- unless it has no more calls than this;
local SPAN_LONG_SECONDS = 20 -- and with more calls it may take this long
local SPAN_MIN_SECONDS = 0.25
local KNOWN = 0.1 -- the spread of a rate that is known well
local SHIFT = 0.8 -- a rate that falls below this share of the known rate has changed
-- a cycle after a fall: at least, and as a share of the time since then
local REGAIN_SECONDS, REGAIN_SHARE = 5, 0.1
-- while all calls are refused, the rate may always fall to this share of the previous rate
local DRY_LEAST = 0.25
-- before refusals have lasted this long, a rate that was only a guess is taken to be really low
local DRY_SECONDS = 60
local BURST_MORE = 0.5
local BURST_LESS = 0.6 -- a cycle that ended late may have overflowed, so the burst is taken to be smaller
local DROP_SMALL, DROP_SMALL_MOST = 0.1, 0.5 -- by how much a small bucket's rate falls if cycles end at once
-- the most that a small bucket contains at a 429; and the spread from which that is believed
local LEVEL_SMALL, SURE = 0.98, 0.25
-- a known rate is judged after so many calls: is it below this share?
local KNOWN_CALLS, KNOWN_SHARE = 20, 0.9
local JITTER_SECONDS = 0.02 -- by how much the network may stretch or shrink a cycle
local SLOWEST = 0.02 -- no learned rate falls below this

-- How many tokens the remote bucket may gather in a swing.
local function depth_of(limiter)
  local burst = limiters.burst_of(limiter)
  if not burst then
    return 1
  end
  local room = burst - limiters.reserve_of(limiter) - 0.5
  return math.max(1, math.min(room, math.max(3, limiter.rate * limiters.SLACK_SECONDS)))
end

-- How long a cycle may be if the rate was higher `at` some time and may be again: look often at first, then
-- less and less often.
local function regain_seconds(at, now)
  return limiters.clamp(REGAIN_SHARE * (now - at) / 1000, REGAIN_SECONDS, SPAN_MAX_SECONDS)
end

-- Choose the span and swing of the next cycle.
local function plan(limiter, now)
  limiter.rate = math.max(limiter.rate, SLOWEST)
  local rate, depth = limiter.rate, depth_of(limiter)
  if rate > SHIFT * limiter.peak then
    limiter.peak = 0
  end
  local longest = limiter.peak > 0 and regain_seconds(limiter.fell_at, now) or SPAN_MAX_SECONDS
  local most = math.min(math.max(SPAN_MAX, SPAN_LONG_SECONDS * rate), math.max(longest * rate, SPAN_SLOW))
  local least = 4 * limiters.clamp(rate * limiters.SLACK_SECONDS, 1, depth) / most
  if limiters.is_small(limiter) then
    least = math.min(least, SWING_SMALL)
  end
  limiter.swing = limiters.clamp(SWING_PER_SPREAD * limiter.spread, least, limiters.WIDE)
  limiter.spread = math.max(limiter.spread, least / 2)
  limiter.span = math.max(math.min(4 * depth / limiter.swing, most), SPAN_MIN_SECONDS * rate)
end

-- Seek the rate from `pace` upwards.
local function seek(limiter, pace, now)
  limiter.mode, limiter.pace = limiters.SEEK, pace
  limiter.seek_pace, limiter.seek_granted, limiter.seek_at = pace, limiter.granted, now
  limiter.settled, limiter.begun = limiter.granted, limiter.granted
end

-- Whether the remote bucket would be empty by now if the believed rate were right.
local function is_overdue(limiter, number)
  local beyond = (number - limiter.begun) / limiter.span - 1
  local saved = limiters.reserve_of(limiter)
  if limiter.full == 1 then
    saved = math.max(saved, limiters.burst_of(limiter) or 0)
  end
  local doubt = limiter.span * limiter.spread / 2
  return beyond > 0 and limiter.span * limiter.swing * (beyond + beyond ^ 2) > saved + 2 + doubt
end

-- The rate before a fall, or before all calls were refused; nil if it was only a guess.
local function rate_before(limiter, now)
  if limiter.peak > 0 then
    return limiter.peak
  end
  return now - limiter.streak_at > 1000 * DRY_SECONDS and limiter.streak_rate or nil
end

-- The call of grant `number` was not throttled.
local function accept(limiter, number, now)
  if number > limiter.granted then -- a grant of a limiter that was lost
    return
  end
  local pace = limiters.pace_of(limiter)
  local before = limiter.streak >= 2 and limiter.mode == limiters.TRACK and rate_before(limiter, now)
  limiter.streak = 0
  if number <= limiter.settled then
    return
  elseif before then
    -- All calls were refused, and now one is not, so the previous rate may be back. Seek it from halfway.
    limiters.refill(limiter, now)
    seek(limiter, math.max(pace, math.sqrt(pace * FOUND_SHARE * before)), now)
  elseif limiter.limited == 0 or pace >= limiters.ceiling_of(limiter) then
    return
  elseif limiter.mode == limiters.SEEK then
    limiters.refill(limiter, now)
    limiter.pace = pace + math.min(GAIN, GAIN_SHARE * pace)
  elseif is_overdue(limiter, number) then
    limiters.refill(limiter, now)
    limiter.burst = limiter.burst * BURST_LESS
    seek(limiter, math.max(pace, FOUND_SHARE * limiter.peak), now)
  end
end

-- A pace that grew past the rate r by `gain` per call, up to p, has drained (p - r - r * ln(p / r)) / gain
-- tokens. No more than `burst` were there, so the rate is at least this. (The first terms of the series in e
-- = 1 - r / p.)
local function least_rate(pace, gain, burst)
  local root = math.sqrt(2 * gain * (burst + 0.5) / pace)
  return pace * math.max(0, 1 - root / math.sqrt(1 + root / 3))
end

-- Learn the burst that the last seek drained from a rate, with the same formula.
local function learn_burst(limiter, rate)
  local pace = limiter.found_pace
  if pace == 0 then
    return
  end
  local burst = (pace - rate - rate * math.log(math.max(1, pace / rate))) / GAIN
  if rate <= limiter.seek_pace then
    burst = limiter.found_calls - rate * limiter.found_seconds
  end
  -- If the seek did not begin with a full bucket, it shows only what the bucket contained at least.
  limiter.burst = math.max(1, burst, limiter.found_full == 1 and 0 or limiter.burst)
end

-- A seek has met a 429: its pace is above the rate, by as much as the burst hid.
local function found(limiter, grant, accepted, seconds)
  limiter.mode = limiters.TRACK
  if limiter.learned == 1 and grant.number == limiter.seek_granted + 1 then
    return -- no call was accepted: there is no more than was known
  end
  if limiter.full == 1 and limiter.learned == 1 and limiter.spread < KNOWN then
    limiter.burst = math.max(1, accepted - limiter.rate * seconds) -- more tokens were saved than was known
    return
  end
  limiter.found_pace, limiter.found_number, limiter.found_full = grant.pace, grant.number, limiter.full
  if limiter.full == 1 then
    limiter.found_calls, limiter.found_seconds = accepted, seconds
    if accepted < limiters.SMALL_BURST then
      limiter.burst, limiter.found_pace = math.max(1, accepted), 0
    end
  else
    limiter.found_calls = math.max(0, grant.number - 1 - limiter.seek_granted)
    limiter.found_seconds = (grant.at - limiter.seek_at) / 1000
  end
  local least = limiter.learned == 1 and limiter.rate or 0
  limiter.rate, limiter.spread = math.max(least, FOUND_SHARE * grant.pace), limiters.WIDE
end

-- Combine the measured `rate`, exact to a share of `error`, with what was known, by their weights.
local function weigh(limiter, rate, error)
  local weight = 1 / (1 + (error / limiter.spread) ^ 2)
  local mean = limiter.rate + weight * (rate - limiter.rate)
  limiter.rate = limiters.clamp(mean, rate * (1 - error), rate * (1 + error))
  limiter.spread = math.min(math.sqrt(weight) * error, limiters.WIDE)
end

-- A cycle has ended: `accepted` calls in `seconds`, from an empty bucket to an empty bucket.
local function measure(limiter, grant, accepted, seconds, now)
  local before = limiter.rate
  local rate, highest = accepted / seconds, (accepted + 1) / seconds
  local jitter = math.min(1, JITTER_SECONDS / seconds)
  local progress = (grant.number - limiter.begun) / limiter.span
  learn_burst(limiter, accepted >= 3 and rate or math.min(before, highest))
  if limiters.is_small(limiter) and accepted > 0 and grant.pace > rate and progress > 1 / 3 then
    -- A small bucket overflowed while it was called too slowly, so the rate is higher than the accepted
    -- calls.
    local error = (grant.pace - rate) / (grant.pace + rate) + jitter
    weigh(limiter, (rate + grant.pace) / 2 * (1 - SWING_SMALL / 2), error)
  elseif limiters.is_small(limiter) and accepted > 0 and accepted < 3 then
    local drop = math.min(DROP_SMALL * 2 ^ limiter.shorts, DROP_SMALL_MOST)
    limiter.rate = math.min(before, math.max(rate, (1 - drop) * grant.pace))
    limiter.spread, limiter.shorts = math.min(drop, limiters.WIDE), limiter.shorts + 1
  elseif accepted >= 3 then
    local error = 1 / accepted + jitter
    local gain = 2 * limiter.swing * before / limiter.span
    local least = least_rate(grant.pace, gain, limiters.burst_of(limiter) or math.huge)
    if least > rate then -- the bucket has overflowed
      rate, error = least, error + (grant.pace - least) / grant.pace / 4
    end
    -- In a cycle that ended early, the pace was too high; a cycle that ended late may hide a higher rate.
    weigh(limiter, rate * (1 + LEAN * error * limiters.clamp(2 * progress - 1, -1, 1)), error)
  elseif highest < before then
    local dry = math.min(DRY_LEAST * limiter.streak_rate, 1 / regain_seconds(limiter.streak_at, now))
    limiter.rate = accepted == 0 and math.max(highest, dry) or highest
    limiter.spread = highest < 0.9 * before and limiters.WIDE or limiter.spread
  elseif limiters.is_small(limiter) and limiter.spread < SURE then
    limiter.burst = limiter.burst + BURST_MORE -- a small bucket did not contain what it should have
  end
  if accepted >= 3 then
    limiter.found_pace, limiter.shorts = 0, 0
  end
end

-- Note whether the rate has fallen below what it was known to be.
local function note_fall(limiter, now)
  if limiter.rate < SHIFT * limiter.steady then
    if limiter.peak == 0 or limiter.streak == 1 then
      limiter.fell_at = now -- it keeps falling while all calls are refused
    end
    limiter.peak = math.max(limiter.peak, limiter.steady)
    limiter.steady = limiter.rate
  elseif limiter.spread < KNOWN then
    limiter.steady = limiter.rate
  end
end

-- A known rate met a 429. A single one may be chance. If fewer calls were accepted than should be, the rate
-- is lower than configured, and is tracked until it is back. Returns whether there is a verdict.
local function judge_known(limiter, accepted, seconds)
  if limiter.full == 1 then
    return true
  elseif (accepted + 2) / seconds < KNOWN_SHARE * limiter.known_rate then
    limiter.steady = limiter.known_rate
    limiter.mode, limiter.rate, limiter.spread = limiters.TRACK, (accepted + 2) / seconds, limiters.WIDE
    return true
  end
  return accepted >= KNOWN_CALLS
end

-- The remote bucket contained only `level` tokens when `grant` was made.
local function drain(limiter, grant, level, now)
  local gained = math.max(0, now - grant.at) / 1000 * limiter.rate
  local there = level + gained - (limiter.granted - grant.number)
  limiter.tokens = math.min(there, limiters.burst_of(limiter) or math.huge) - limiters.reserve_of(limiter)
  limiter.filled_at = math.max(now, limiter.filled_at)
end

-- Measure the next cycle from `grant` on.
local function drop_anchor(limiter, grant)
  if limiter.full == 1 or grant.number > limiter.anchor + limiter.refused + 1 then
    limiter.anchor_at = grant.at -- otherwise no tokens have been used since the last anchor
  end
  limiter.anchor, limiter.refused, limiter.full, limiter.unused = grant.number, 0, 0, 0
  limiter.settled, limiter.begun, limiter.learned = limiter.granted, limiter.granted, 1
end

-- A 429 that only repeats that the bucket was empty.
local function note_refusal(limiter, grant, now)
  if limiter.full == 1 then
    limiter.full = 0
  elseif grant.number > limiter.anchor then
    limiter.refused = limiter.refused + 1
  elseif grant.number < limiter.found_number then -- its answer came late, so the call was counted as accepted
    limiter.found_calls = math.max(0, limiter.found_calls - 1)
  end
  drain(limiter, grant, 0, now)
end

-- The call of `grant` was throttled. Returns whether that counts: the 429s of calls that were in progress
-- when the last one came belong to the same burst.
local function refuse(limiter, grant, retry_after_ms, now)
  limiters.refill(limiter, now)
  limiter.blocked_until = math.max(limiter.blocked_until, now + retry_after_ms)
  if grant.number > limiter.granted then -- a grant of a limiter that was lost
    return false
  elseif grant.number <= limiter.settled then
    note_refusal(limiter, grant, now)
    return false
  end
  if limiter.streak == 0 then
    limiter.streak_rate, limiter.streak_at = limiter.rate, now
  end
  limiter.streak = limiter.streak + 1
  if grant.number <= limiter.anchor then -- the lane has rested since then
    note_refusal(limiter, grant, now)
    limiter.settled = limiter.granted
    return true
  end
  local accepted = grant.number - limiter.anchor - 1 - limiter.refused
  local seconds = math.max(grant.at - limiter.anchor_at, 1) / 1000
  if limiter.mode == limiters.SEEK and grant.pace >= limiters.ceiling_of(limiter) then
    if not judge_known(limiter, accepted, seconds) then
      note_refusal(limiter, grant, now)
      return true
    end
  elseif limiter.mode == limiters.SEEK then
    found(limiter, grant, accepted, seconds)
  elseif limiter.full == 0 then
    measure(limiter, grant, accepted, seconds, now)
  elseif accepted > 0 and seconds * limiter.rate < limiter.burst + 3 then
    limiter.burst = math.max(1, accepted - limiter.rate * seconds) -- fewer tokens were saved than assumed
  end
  note_fall(limiter, now)
  plan(limiter, now)
  -- In a small bucket, a token was there, except for the excess of the pace over the rate.
  local is_sure = limiters.is_small(limiter) and accepted >= 3 and limiter.spread < SURE
  drain(limiter, grant, is_sure and math.min(limiter.rate / grant.pace, LEVEL_SMALL) or 0, now)
  drop_anchor(limiter, grant)
  return true
end

-- Return to a rate that was believed before, and measure it anew.
local function believe(limiter, rate, now)
  limiter.mode, limiter.rate, limiter.spread = limiters.TRACK, rate, math.max(limiter.spread, KNOWN)
  limiter.settled, limiter.begun, limiter.full = limiter.granted, limiter.granted, 1
  limiter.anchor, limiter.anchor_at, limiter.refused = limiter.granted, now, 0
  plan(limiter, now)
end

return {
  accept = accept,
  refuse = refuse,
  believe = believe,
}
