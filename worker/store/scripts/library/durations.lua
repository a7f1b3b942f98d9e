-- How long the jobs of a lane take, for each operation: a histogram (worker/domain/polling.py) in the lane's
-- facts. Its weights are written as text, bin by bin.
--
-- needs: base

local KEPT = 1 - 1 / 100 -- of each weight when another job ends, so that about the last 100 jobs count
local LEAST = 0.001 -- smaller weights are dropped, so that the text stays short

-- The seconds at which a bin begins. The last bin has no end.
local function edge(bin)
  if bin > BINS.count then
    return math.huge
  end
  return bin == 1 and 0 or 2 ^ ((bin - 2) / BINS.per_octave)
end

local function weights_in(text)
  local weights = {}
  for word in string.gmatch(text or '', '%S+') do
    local weight = tonumber(word)
    if not (weight and weight >= 0 and weight < math.huge) then
      return {} -- damaged
    end
    weights[#weights + 1] = weight
  end
  return #weights == BINS.count and weights or {}
end

-- A histogram with another job, which ended between two ages in seconds: its weight of 1 is spread over them.
local function with_job(text, from, to)
  local weights = weights_in(text)
  from = math.max(from, 0)
  to = math.max(to, from + 0.001)
  for bin = 1, BINS.count do
    local within = math.max(0, math.min(to, edge(bin + 1)) - math.max(from, edge(bin)))
    local weight = (weights[bin] or 0) * KEPT + within / (to - from)
    weights[bin] = weight < LEAST and '0' or string.format('%.4g', weight)
  end
  return table.concat(weights, ' ')
end

-- The name of the field of the lane's facts that has the histogram for an import's operation.
local function field_of(record)
  return 'durations' .. (record.requested_operation and '@' .. record.requested_operation or '')
end

-- The job of this import was seen to be over, and was not over when it was last polled. The age of an adopted
-- job is unknown.
local function note_end(record, now)
  if record.adopted or not record.started_at_ms then
    return
  end
  local key = KEY.facts .. base.lane_of(record)
  local field = field_of(record)
  local started = tonumber(record.started_at_ms)
  local from = tonumber(record.unfinished_at_ms or started) - started
  local text = with_job(redis.call('HGET', key, field), from / 1000, (now - started) / 1000)
  redis.call('HSET', key, field, text)
end

-- How many jobs are left at the beginning of each bin; nil while too few jobs have ended.
local function survivors_in(text)
  local weights = weights_in(text)
  local survivors, left = {}, 0
  for bin = BINS.count, 1, -1 do
    left = left + (weights[bin] or 0)
    survivors[bin] = left
  end
  return left >= BINS.enough and survivors or nil
end

local function left_at(survivors, age)
  local bin = age < 1 and 1 or math.floor(math.log(age) / math.log(2) * BINS.per_octave) + 2
  bin = math.min(bin, BINS.count)
  local share = bin < BINS.count and (age - edge(bin)) / (edge(bin + 1) - edge(bin)) or 0
  return survivors[bin] - share * (survivors[bin] - (survivors[bin + 1] or 0))
end

-- The chance that a job that was under way at the age `from` is over at the age `to`, in seconds; 0 if no
-- job has become that old.
local function chance_of_end(survivors, from, to)
  local left = left_at(survivors, from)
  return left > LEAST and 1 - left_at(survivors, to) / left or 0
end

return {
  with_job = with_job,
  field_of = field_of,
  survivors_in = survivors_in,
  chance_of_end = chance_of_end,
  note_end = note_end,
}
