-- The scripts run inside Redis. worker/store/scripts.py loads each one after the tables KEY, CONFIG, SHARES,
-- BINS, SAY and RECORD and the library files that it needs. A library file returns one table.
std = "lua51"
max_line_length = 110
read_globals = {
  "redis", "cjson", "KEYS", "ARGV", "KEY", "CONFIG", "SHARES", "BINS", "SAY", "RECORD",
  "base", "records", "history", "limiters", "learning", "ceiling", "lanes", "facts", "durations", "polls",
  "budget", "health", "answers", "queues", "schedules", "batches", "imports", "starting",
}
