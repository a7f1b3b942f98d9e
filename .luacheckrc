-- Scripts run inside Redis. Each is loaded behind the library, the library behind KEY and CONFIG.
std = "lua51"
max_line_length = 110
read_globals = { "redis", "cjson", "KEYS", "ARGV", "KEY", "CONFIG" }

local SHARED = {
  -- base
  "TERMINAL", "exact_ms", "now_ms", "iso_time", "hash_of", "put", "append_event", "append_import_event",
  "wake", "schedule_lane", "lane_of", "target_of",
  -- limiter
  "SEEK", "TRACK", "WIDE", "SMALL_BURST", "SLACK_SECONDS", "NEW_LIMITER", "clamp", "open_limiter",
  "restart_limiter", "burst_of", "is_small", "reserve_of", "ceiling_of", "pace_of", "refill", "available",
  "grant_call", "ready_at",
  -- learning
  "accept", "refuse", "believe",
  -- ceiling
  "room_under", "try_above", "meet_ceiling", "suspect_ceiling", "pass_ceiling", "NO_CEILING",
  -- lanes
  "limit_of", "is_shared", "load_limiter", "save_limiter", "grant_text", "parse_grant", "under_way",
  "note_answer", "follow_limits",
  -- queues
  "enqueue", "requeue", "has_waiting", "forget_flows", "open_queue", "grow_queue", "pop_waiting",
  "close_queue",
  -- batches
  "count_batch", "complete_batch", "join_batch", "count_known", "hold", "admit_to_lane", "is_stopped",
  "stop_batch", "open_batch", "release_held", "judge_batch",
  -- imports
  "unpark", "release_target", "owe_end", "end_import", "cancel_import", "attach_task", "reject_new", "claimed_record", "give_back",
}
files["worker/store/scripts"] = { read_globals = SHARED }
files["worker/store/scripts/library"] = {
  ignore = { "211" }, -- what it defines is used by the scripts loaded behind it
}
