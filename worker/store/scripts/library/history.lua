-- An import's history: what happened to it, and when, for people to read. Nothing is decided by it.
--
-- A line is JSON: at (milliseconds), what, and what else there is to say. The same again is no new line: the
-- last one counts how often, in `times`, and says since when. The oldest lines give way to new ones.

local LINES = 100 -- of one import; most have four

-- What sends a start back without counting it: that it is made again, or AWS asked before, is no news then.
local UNCOUNTED = { throttled = true, conflict = true, lane_paused = true, given_back = true }

-- Add what happened `now` to an import. It must be under way or, like all that is over, about to expire.
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
