-- A lane's limits, and the limiters that enforce them.
--
-- needs: base, limiters

-- The limit with this name: as set by an operator, else as configured for the lane, else the default.
local function limit_of(lane, defaults, name)
  return tonumber(lane['hand_' .. name] or lane[name] or defaults[name])
end

-- Whether starts and polls share one budget.
local function is_shared(lane, defaults)
  return limit_of(lane, defaults, 'shared') == 1
end

-- Load the limiter of a class of calls ('start', 'poll' or 'shared'), refilled.
local function load_limiter(name, lane, defaults, class, now)
  local key = KEY.limiter .. name .. ':' .. class
  local fields = base.hash_of(key)
  local rate = limit_of(lane, defaults, class .. '_rate') or 0
  local burst = limit_of(lane, defaults, class .. '_burst') or 0
  local limiter = limiters.open_limiter(fields, rate, burst, now)
  limiter.key, limiter.fields, limiter.class = key, fields, class
  return limiter
end

-- Store what has changed in a limiter. A new one has many zeros, which need not be stored.
local function save_limiter(limiter)
  local changed = {}
  for name in pairs(limiters.NEW_LIMITER) do
    if tonumber(limiter.fields[name] or 0) ~= limiter[name] then
      changed[#changed + 1] = name
      changed[#changed + 1] = limiter[name] -- the server writes numbers exactly
    end
  end
  if #changed > 0 then
    redis.call('HSET', limiter.key, unpack(changed))
  end
end

local opened = {} -- key -> limiter, while a script records answers

-- Load a limiter once for all answers that a script records. `save_opened` stores what they change.
local function open_limiter(name, class, now)
  local key = KEY.limiter .. name .. ':' .. class
  if not opened[key] then
    opened[key] = load_limiter(name, base.hash_of(KEY.lane .. name), base.hash_of(KEY.defaults), class, now)
  end
  return opened[key]
end

local function save_opened()
  for _, limiter in pairs(opened) do
    save_limiter(limiter)
  end
end

-- Let a limiter learn anew. Grants are still counted, because calls are in progress.
local function forget_learned(limiter, now)
  local new = limiters.restart_limiter(limiter, limiter.known_rate, limiter.known_burst, now)
  new.key, new.fields = limiter.key, limiter.fields
  return new
end

-- Apply changed limits now, not only when a conductor looks. `anew`: also forget what was learned.
local function follow_limits(name, defaults, now, anew)
  local lane = base.hash_of(KEY.lane .. name)
  for _, class in ipairs({ 'start', 'poll', 'shared' }) do
    if redis.call('EXISTS', KEY.limiter .. name .. ':' .. class) == 1 then
      local limiter = load_limiter(name, lane, defaults, class, now)
      save_limiter(anew and forget_learned(limiter, now) or limiter)
    end
  end
  base.schedule_lane(name, now, now) -- it may have been scheduled as the old limits required
end

-- A grant as text, for the worker to return with the answer. `above`: it exceeded the ceiling.
local function grant_text(limiter, grant, above)
  return string.format('%s %.17g %.17g %.17g %d', limiter.class, grant.number, grant.at, grant.pace,
    above and 1 or 0)
end

local function parse_grant(text)
  local class, number, at, pace, above = string.match(text, '^(%a+) (%S+) (%S+) (%S+) (%d)$')
  if not class then
    return nil
  end
  return {
    class = class, number = tonumber(number), at = tonumber(at), pace = tonumber(pace), above = above == '1',
  }
end

-- How many of the lane's imports count against max_running and the ceiling.
local function under_way(name)
  return redis.call('ZCARD', KEY.polls .. name) + redis.call('ZCARD', KEY.leases .. name)
end

return {
  limit_of = limit_of,
  is_shared = is_shared,
  load_limiter = load_limiter,
  save_limiter = save_limiter,
  open_limiter = open_limiter,
  save_opened = save_opened,
  follow_limits = follow_limits,
  grant_text = grant_text,
  parse_grant = parse_grant,
  under_way = under_way,
}
