-- Return which commands the calling user may run; all of them if the server can't say (before Redis 7).
--
-- ARGV  1: JSON object: commands (each a list of its words)
-- Returns JSON: allowed (for each command whether it is)
-- Atomic, so that one call checks all commands. It only reads.

local allowed = {}
for number, words in ipairs(cjson.decode(ARGV[1]).commands) do
  local is_known, may = true, true
  if redis.acl_check_cmd then
    is_known, may = pcall(redis.acl_check_cmd, unpack(words))
  end
  allowed[number] = is_known and may or false
end
return cjson.encode({ allowed = allowed })
