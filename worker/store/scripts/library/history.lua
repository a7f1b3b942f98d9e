-- An import's history: what happened to it, and when, for people to read. No decision depends on it.
--
-- A compact record shows by itself that its import was accepted, started, ran and ended. A history is written
-- only when anything else happens, and begins with these lines (worker/domain/history.py reads them off).
--
-- A line is JSON: at (milliseconds), what, and details. If the same happens again, no line is added: the last
-- line counts how often in `times`, and keeps the first time in `since`. The oldest lines are dropped for new
-- ones.
--
-- needs: base, records

local LINES = 100 -- of one import; most that have a history have five or six

-- What sends an uncounted start back. A repeated start or list after it is not a new line.
local UNCOUNTED = { throttled = true, conflict = true, lane_paused = true, given_back = true,
  unchecked = true }

-- What the record shows, besides the import's end.
local SHOWN = { accepted = true, start = true, running = true }

local function line_at(ms, what, line)
  line.at, line.what = tonumber(ms), what
  return cjson.encode(line)
end

-- The lines that a record shows by itself.
local function shown_by(record)
  local lines = { line_at(record.accepted_at_ms, 'accepted', { retry_of = record.retry_of }) }
  if record.last_start_at_ms then
    lines[#lines + 1] = line_at(record.last_start_at_ms, 'start', { attempt = tonumber(record.attempts) })
  end
  if record.started_at_ms and record.started_at_ms ~= record.finished_at_ms then
    lines[#lines + 1] = line_at(record.started_at_ms, 'running', { job_id = record.job_id })
  end
  if record.finished_at_ms then
    lines[#lines + 1] = line_at(record.finished_at_ms, record.state,
      { error = record.error, job_id = record.job_id })
  end
  return lines
end

-- Add what happened `now` to an import. The import must be under way, or its key must expire. `record` is as
-- it was before, unless the record shows what happened.
local function note(id, record, now, what, line)
  local key = KEY.history .. id
  local text = redis.call('LINDEX', key, -1)
  if not text and records.is_compact(record) then
    if SHOWN[what] or base.TERMINAL[what] then
      return
    end
    redis.call('RPUSH', key, unpack(shown_by(record)))
  end
  local last = text and cjson.decode(text) or {}
  line = line or {}
  if last.what == what then
    line.times, line.since = (last.times or 1) + 1, last.since or last.at
    redis.call('LSET', key, -1, line_at(now, what, line))
  elseif not ((what == 'start' or what == 'listing') and UNCOUNTED[last.what])
    and redis.call('RPUSH', key, line_at(now, what, line)) > LINES then
    redis.call('LTRIM', key, -LINES, -1)
  end
end

return {
  note = note,
}
