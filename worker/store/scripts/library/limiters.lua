-- The limiter of one class of a lane's calls: how many may be made now. learning.lua learns the limit.
--
-- Pure: a limiter is a table, the time (milliseconds on the server's clock) is a parameter, and nothing here
-- calls the server. Rates are calls per second, sizes are calls.

local SEEK, TRACK = 0, 1 -- modes: looking for the rate; knowing it, and measuring it in each cycle

local FIRST_PACE = 4 -- of a limiter that knows nothing
local SPAN_MIN = 12 -- calls in the shortest cycle
local WIDE = 0.33 -- the spread of a rate that is hardly known
local SMALL_BURST = 3 -- a smaller bucket has no room for a useful reserve
local RESERVE_NEW = 3 -- the reserve while the burst is unknown
local SWING_END = 2 -- the pace rises up to so many swings above the rate; beyond that, only answers raise it
local SLACK_SECONDS = 0.05 -- conductors wake late, so the tokens of this time may be granted at once
local GATHER_SECONDS = 0.1 -- the permits of this time are granted together, if the burst has room for them
local CROWDING_SECONDS = 0.1 -- calls may arrive closer together than they were granted, by this much
local CROWDING_LEAST = 0.01 -- below this, the effect is too rare to be worth a call less
local DEBT_LEAST, DEBT_SECONDS = 100, 60 -- calls granted beyond what a 429 shows was there, at most
local CROWDING_SHARE = 0.02 -- if a known burst has no room for that, calls are spaced wider by this share

-- What is stored of a limiter, as a new one begins. A constructor is faster than a copy of a table.
local function blank_limiter()
  return {
    known_rate = 0, -- the configured rate; 0: to be learned
    known_burst = 0,
    mode = SEEK,
    pace = FIRST_PACE, -- calls per second that a seeking limiter grants
    rate = FIRST_PACE, -- the rate that the remote side is believed to allow
    spread = WIDE, -- how far off the rate may be, as a share of it
    burst = 0, -- the believed size of the remote bucket; 0: unknown
    learned = 0, -- 1 once a 429 was seen
    tokens = 1,
    filled_at = 0,
    granted = 0, -- calls granted so far: the number of the last grant
    limited = 0, -- 1 while more calls are due than are granted
    unused = 0, -- tokens that overflowed while no calls were due
    blocked_until = 0, -- until when the remote side asked for no calls
    -- A cycle lasts from one 429, its anchor, to the next.
    anchor = 0, -- the grant at which the remote bucket was empty, or full
    anchor_at = 0,
    full = 1,
    refused = 0, -- calls throttled since the anchor
    settled = 0, -- answers to grants up to this one show nothing new
    begun = 0, -- the grant from which on the pace swings
    span = SPAN_MIN, -- calls until the pace has risen from the low end of the swing to the high one
    swing = WIDE, -- the pace moves from rate * (1 - swing) to rate * (1 + swing)
    streak = 0, -- 429s in a row that counted
    streak_rate = 0, -- the rate before them
    streak_at = 0, -- when they began
    shorts = 0, -- cycles in a row that ended at once
    -- Where the last seek began and what it found. They show the burst once the rate is known.
    seek_pace = FIRST_PACE,
    seek_granted = 0,
    seek_at = 0,
    found_pace = 0,
    found_number = 0,
    found_calls = 0,
    found_seconds = 0,
    found_full = 1,
    steady = 0, -- the rate when it was last known well
    peak = 0, -- a higher rate that was known before it fell
    fell_at = 0,
  }
end

local NEW_LIMITER = blank_limiter()

local function clamp(value, low, high)
  return math.max(low, math.min(value, high))
end

-- The configured or learned burst; nil while it is unknown.
local function burst_of(limiter)
  if limiter.known_burst > 0 then
    return limiter.known_burst
  end
  return limiter.burst > 0 and limiter.burst or nil
end

local function is_small(limiter)
  return (burst_of(limiter) or SMALL_BURST) < SMALL_BURST
end

-- How many tokens are left in the remote bucket on purpose, because the network delay varies.
local function reserve_of(limiter)
  local burst = burst_of(limiter)
  if not burst then
    return RESERVE_NEW
  end
  return clamp((burst - 1) / 2, 0, math.max(1, limiter.rate * SLACK_SECONDS))
end

-- The highest pace that a known rate allows.
local function ceiling_of(limiter)
  local rate = limiter.known_rate
  if rate == 0 then
    return math.huge
  end
  local crowded = 1 + rate * CROWDING_SECONDS - (burst_of(limiter) or math.huge)
  return rate / (1 + clamp(crowded, 0, CROWDING_SHARE))
end

-- The calls per second that are granted now.
local function pace_of(limiter)
  local pace = limiter.pace
  if limiter.mode == TRACK then
    local position = 2 * (limiter.granted - limiter.begun) / limiter.span - 1
    if is_small(limiter) then
      position = position * 2 / 3 + 1 / 3 -- a small bucket would only overflow
    end
    pace = limiter.rate * (1 + limiter.swing * math.min(position, SWING_END))
  end
  return math.min(pace, ceiling_of(limiter))
end

-- How many calls may be granted at once after a rest.
local function capacity_of(limiter)
  local burst, pace = burst_of(limiter), pace_of(limiter)
  if limiter.known_burst > 0 then
    local crowded = pace * CROWDING_SECONDS
    return math.max(1, burst - (crowded > CROWDING_LEAST and crowded or 0))
  elseif burst then
    return math.max(1, burst - reserve_of(limiter))
  end
  return math.max(2, 1 + pace * SLACK_SECONDS)
end

-- Begin with the configured `rate` and `burst`; 0 if they are to be learned.
local function new_limiter(rate, burst, now)
  local limiter = blank_limiter()
  limiter.known_rate, limiter.known_burst = rate, burst
  limiter.filled_at, limiter.anchor_at, limiter.seek_at = now, now, now
  if rate > 0 then
    limiter.pace, limiter.rate, limiter.seek_pace = rate, rate, rate
    limiter.tokens = burst > 0 and capacity_of(limiter) or 1
  end
  return limiter
end

-- Begin anew, with no more tokens than there were, and without shortening a block. Grants are still counted,
-- because calls are in progress.
local function restart_limiter(limiter, rate, burst, now)
  local new = new_limiter(rate, burst, now)
  new.tokens = math.min(limiter.tokens, new.tokens)
  new.blocked_until = limiter.blocked_until
  for _, name in ipairs({ 'granted', 'settled', 'begun', 'anchor', 'seek_granted' }) do
    new[name] = limiter.granted
  end
  return new
end

-- Return the limiter in `fields` (name -> text; what is 0 may be absent); nil if it is lost or damaged.
local function read_limiter(fields, now)
  if not fields.filled_at then
    return nil
  end
  local limiter = blank_limiter()
  for name in pairs(NEW_LIMITER) do
    local value = tonumber(fields[name] or 0)
    if not value or value ~= value or math.abs(value) > 1e15 then
      return nil
    end
    limiter[name] = value
  end
  local debt = DEBT_LEAST + limiter.known_burst + limiter.burst + DEBT_SECONDS * limiter.pace
  local is_sound = math.min(limiter.rate, limiter.pace, limiter.span) > 0
    and math.min(limiter.known_rate, limiter.known_burst) >= 0 and limiter.tokens > -debt
    and math.max(limiter.anchor, limiter.begun, limiter.settled) <= limiter.granted
    and limiter.filled_at < now + 60000 and limiter.blocked_until < now + 86400000
  return is_sound and limiter or nil
end

-- Let tokens flow in up to `now`.
local function refill(limiter, now)
  local gained = math.max(0, now - limiter.filled_at) / 1000 * pace_of(limiter)
  local capacity = capacity_of(limiter)
  local over = limiter.tokens + gained - capacity
  if over > 0 and (limiter.limited == 0 or limiter.filled_at < limiter.blocked_until) then
    limiter.unused = limiter.unused + over
  end
  limiter.tokens = math.min(limiter.tokens + gained, capacity)
  limiter.filled_at = math.max(now, limiter.filled_at)
  if limiter.unused >= 1 then
    -- The lane rests, and the remote bucket fills unseen, so the cycle can't be measured.
    limiter.unused, limiter.refused, limiter.begun = 0, 0, limiter.granted
    limiter.anchor, limiter.anchor_at, limiter.full = limiter.granted, now, 1
  end
end

-- How many calls a refilled limiter grants now.
local function available(limiter)
  if limiter.filled_at < limiter.blocked_until then
    return 0
  end
  return math.max(0, math.floor(limiter.tokens + 1e-6))
end

-- Grant one call. Returns the grant: its number, its time, and the pace then.
local function grant_call(limiter)
  local pace = pace_of(limiter)
  limiter.tokens = limiter.tokens - 1
  limiter.granted = limiter.granted + 1
  return { number = limiter.granted, at = limiter.filled_at, pace = pace }
end

-- How many calls an exhausted limiter gathers, so that one claim takes them together. None of its tokens may
-- overflow before a conductor that wakes late takes them. A pace that is learned gathers none, because the
-- times of its calls measure the rate.
local function gathered(limiter)
  local pace = pace_of(limiter)
  if pace < ceiling_of(limiter) then
    return 1
  end
  local most = capacity_of(limiter) - pace * SLACK_SECONDS
  return math.max(1, math.floor(math.min(pace * GATHER_SECONDS, most)))
end

-- When a refilled limiter will grant the next calls, of which `due` are due (one, if it is absent). If it can
-- grant one now, that is now.
local function ready_at(limiter, due)
  local calls = limiter.tokens < 1 and math.min(due or 1, gathered(limiter)) or 1
  local wait = math.max(0, calls - limiter.tokens) / pace_of(limiter) * 1000
  return math.max(limiter.filled_at + wait, limiter.blocked_until)
end

-- Return the limiter in `fields`, refilled, with the limits that are configured now. If it is lost, damaged
-- or from the future, or if other limits are configured, it starts anew.
local function open_limiter(fields, rate, burst, now)
  local limiter = read_limiter(fields, now)
  if not limiter then
    return new_limiter(rate, burst, now)
  end
  refill(limiter, now)
  if limiter.known_rate ~= rate or limiter.known_burst ~= burst then
    return restart_limiter(limiter, rate, burst, now)
  end
  return limiter
end

return {
  SEEK = SEEK,
  TRACK = TRACK,
  WIDE = WIDE,
  SMALL_BURST = SMALL_BURST,
  SLACK_SECONDS = SLACK_SECONDS,
  GATHER_SECONDS = GATHER_SECONDS,
  NEW_LIMITER = NEW_LIMITER,
  clamp = clamp,
  burst_of = burst_of,
  is_small = is_small,
  reserve_of = reserve_of,
  ceiling_of = ceiling_of,
  pace_of = pace_of,
  restart_limiter = restart_limiter,
  refill = refill,
  available = available,
  grant_call = grant_call,
  ready_at = ready_at,
  open_limiter = open_limiter,
}
