-- Read imports: their records, their queues, their targets' holders, and the tasks that wait for them.
--
-- ARGV  1: JSON object: entries (lists of an import id and the queue in which it was seen, '' for none)
-- Returns JSON: now_ms, newest (the entry id of the newest event), imports (for each entry its pttl, record,
--       was_accepted, places (kind of queue -> score), holder, owes, unfinished, lane_due, paused, seen_in
--       (its score in the given queue); missing values are absent)
-- Atomic, so that an import and the events up to the newest are read at one moment. It only reads.
--
-- needs: base, records

local args = cjson.decode(ARGV[1])
local FIELDS = { 'state', 'account', 'region', 'app_id', 'backend_environment_name', 'priority', 'batch_id',
  'job_id', 'sequence', 'doubts', 'accepted_at_ms', 'started_at_ms', 'finished_at_ms',
  'late_outcome', 'format', 'verification' }

local function places_of(id, record)
  local lane = base.lane_of(record)
  local queues = {
    waiting = KEY.waiting .. lane .. ':' .. (record.priority or ''),
    delayed = KEY.delayed .. lane,
    parked = KEY.parked .. base.target_of(record),
    held = KEY.held .. (record.batch_id or ''),
    leases = KEY.leases .. lane,
    polls = KEY.polls .. lane,
    late = KEY.late .. lane,
  }
  local places = {}
  for kind, queue in pairs(queues) do
    places[kind] = tonumber(redis.call('ZSCORE', queue, id) or nil)
  end
  return places
end

local function facts_of(id, queue)
  local record = records.read_some(id, FIELDS)
  local seen = { record = record, pttl = redis.call('PTTL', KEY.import .. id) }
  seen.was_accepted = records.was_accepted(record)
  if queue ~= '' then
    seen.seen_in = tonumber(redis.call('ZSCORE', queue, id) or nil)
  end
  local has_target = record.account and record.region and record.app_id and record.backend_environment_name
  if record.state and has_target then
    local lane = base.lane_of(record)
    seen.places = places_of(id, record)
    seen.holder = redis.call('HGET', KEY.target .. base.target_of(record), 'holder') or nil
    seen.owes = redis.call('EXISTS', KEY.tasks .. id) == 1
    seen.unfinished = tonumber(redis.call('ZSCORE', KEY.unfinished, id) or nil)
    seen.lane_due = tonumber(redis.call('ZSCORE', KEY.lanes, lane) or nil)
    seen.paused = redis.call('HEXISTS', KEY.lane .. lane, 'paused_reason') == 1
  end
  return seen
end

local newest = redis.call('XREVRANGE', KEY.events, '+', '-', 'COUNT', 1)[1]
local found = {}
for number, entry in ipairs(args.entries) do
  found[number] = facts_of(entry[1], entry[2])
end
return cjson.encode({ now_ms = base.now_ms(), newest = newest and newest[1] or '0-0', imports = found })
