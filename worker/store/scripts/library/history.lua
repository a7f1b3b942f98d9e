-- An import's history: what happened to it, and when, for people to read. No decision depends on it.
--
-- A line is JSON: at (milliseconds), what, and details. If the same happens again, no line is added: the last
-- line counts how often in `times`, and keeps the first time in `since`. The oldest lines are dropped for new
-- ones.

local LINES = 100 -- of one import; most have four

-- What sends an uncounted start back. A repeated start or list after it is not a new line.
local UNCOUNTED = { throttled = true, conflict = true, lane_paused = true, given_back = true }

-- Add what happened `now` to an import. The import must be under way, or its key must expire.
local function note(id, now, what, line)
  local key = KEY.history .. id
  local text = redis.call('LINDEX', key, -1)
  local last = text and cjson.decode(text) or {}
  line = line or {}
  line.at, line.what = now, what
  if last.what == what then
    line.times, line.since = (last.times or 1) + 1, last.since or last.at
    redis.call('LSET', key, -1, cjson.encode(line))
  elseif not ((what == 'start' or what == 'listing') and UNCOUNTED[last.what])
    and redis.call('RPUSH', key, cjson.encode(line)) > LINES then
    redis.call('LTRIM', key, -LINES, -1)
  end
end

return {
  note = note,
}
