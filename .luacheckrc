-- Scripts run inside Redis. Each is loaded behind lib.lua, which is loaded behind KEY and CONFIG.
std = "lua51"
max_line_length = 110
read_globals = { "redis", "cjson", "KEYS", "ARGV", "KEY", "CONFIG" }

local SHARED = {
  "PRIORITY_STRIDE", "TERMINAL", "now_ms", "iso_time", "hash_of", "put", "append_event",
  "append_import_event", "wake", "schedule_lane", "lane_of", "target_of", "count_batch", "count_known",
  "attach_task", "owe_end", "join_batch", "leave_queues", "release_target", "end_import", "reject_new", "claimed_record",
  "lane_answered", "give_back",
}
files["worker/store/scripts"] = { read_globals = SHARED }
files["worker/store/scripts/lib.lua"] = {
  ignore = { "211" }, -- what it defines is used by the scripts loaded behind it
}
