-- When a batch may start imports: from a time on, in its windows, and at most so many in an hour.
--
-- A window follows the clocks of a time zone, which scripts cannot read. So workers compute its openings for
-- the next days, from the server's time (worker/domain/schedules.py), and compute them again every hour.
-- Behind the last opening that is known, nothing starts.
--
-- needs: base

local FIELDS = { 'gate', 'start_at_ms', 'window', 'max_per_hour', 'openings', 'paced_until_ms' }
local HOUR_MS = 3600000

-- The starts of an hour are spread over it (a generic cell rate algorithm, ITU-T I.371): a start is due every
-- `gap_ms`. Up to a minute's starts that were missed are made up for. So no hour has more than `most`.
local function add_pace(schedule, most)
  local burst = 1 + math.floor(most / 60)
  schedule.gap_ms = HOUR_MS / (most - burst + 1)
  schedule.slack_ms = (burst - 1) * schedule.gap_ms
end

-- Returns a batch's gate and its schedule; each is nil if it has none.
local function read(batch_id)
  local found = redis.call('HMGET', KEY.batch .. batch_id, unpack(FIELDS))
  local gate, start_at_ms, window, most = found[1] or nil, found[2], found[3], found[4]
  if not (start_at_ms or window or most) then
    return gate
  end
  local schedule = {
    batch_id = batch_id,
    start_at_ms = tonumber(start_at_ms or 0),
    openings = window and cjson.decode(found[5] or '[]'),
    paced_until_ms = tonumber(found[6] or 0),
  }
  if most then
    add_pace(schedule, tonumber(most))
  end
  return gate, schedule
end

-- When the batch may start its next import: `now`, or later; math.huge if that is not known yet.
local function ready_at(schedule, now)
  local at = math.max(now, schedule.start_at_ms)
  if schedule.gap_ms then
    at = math.max(at, schedule.paced_until_ms - schedule.slack_ms)
  end
  if not schedule.openings then
    return at
  end
  for _, opening in ipairs(schedule.openings) do
    if at < opening[2] then
      return math.max(at, opening[1])
    end
  end
  return math.huge
end

-- How many imports the batch may start now, if it may start one and has an hourly maximum.
local function starts_left(schedule, now)
  local ahead = math.max(0, schedule.paced_until_ms - now)
  return 1 + math.floor((schedule.slack_ms - ahead) / schedule.gap_ms + 1e-6)
end

-- Count a start of the batch, also one that AWS will refuse.
local function count_start(schedule, now)
  if schedule.gap_ms then
    local until_ms = math.max(schedule.paced_until_ms, now) + schedule.gap_ms
    base.put(KEY.batch .. schedule.batch_id, {}, { paced_until_ms = until_ms })
  end
end

-- Let workers look at the batch's held imports `at` this time, and keep its openings up to date.
local function await(schedule, at, now)
  redis.call('ZADD', KEY.openings, 'LT', at == math.huge and '+inf' or at, schedule.batch_id)
  if schedule.openings then
    redis.call('ZADD', KEY.schedules, 'NX', now, schedule.batch_id)
  end
end

-- Give a batch a schedule: `batch` is its hash; `members` are start_at_ms, window and max_per_hour, if given.
local function change(batch_id, batch, members, now)
  local fields = {}
  for _, name in ipairs({ 'start_at_ms', 'window', 'max_per_hour' }) do
    fields[name] = members[name]
  end
  if fields.window ~= nil and fields.window ~= batch.window then
    fields.openings = false
  end
  base.put(KEY.batch .. batch_id, batch, fields)
  if batch.window then
    redis.call('ZADD', KEY.schedules, now, batch_id)
  end
end

-- Give a new batch the window and the hourly maximum of an earlier one.
local function inherit(batch_id, earlier_id, now)
  if redis.call('EXISTS', KEY.batch .. batch_id) == 0 then
    local window, most = unpack(redis.call('HMGET', KEY.batch .. earlier_id, 'window', 'max_per_hour'))
    change(batch_id, {}, { window = window or nil, max_per_hour = most or nil }, now)
  end
end

-- A batch that is over needs no openings any more.
local function forget(batch_id)
  redis.call('ZREM', KEY.openings, batch_id)
  redis.call('ZREM', KEY.schedules, batch_id)
end

return {
  read = read,
  ready_at = ready_at,
  starts_left = starts_left,
  count_start = count_start,
  await = await,
  change = change,
  inherit = inherit,
  forget = forget,
}
