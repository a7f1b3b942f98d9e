-- Scripts run inside Redis. Each is loaded behind the files of the library that it needs, those behind
-- KEY and CONFIG (worker/store/scripts.py). A file of the library returns one table.
std = "lua51"
max_line_length = 110
read_globals = {
  "redis", "cjson", "KEYS", "ARGV", "KEY", "CONFIG",
  "base", "history", "limiters", "learning", "ceiling", "lanes", "facts", "answers", "queues", "batches",
  "imports",
}
