-- Tell which commands the calling user may run; all, where the server can't tell (before Redis 7).
--
-- ARGV  1: JSON object: commands, each a list of its words
-- Returns one number for each command: 1 or 0
-- Atomic, so that it is one question. Only reads.

local allowed = {}
for number, words in ipairs(cjson.decode(ARGV[1]).commands) do
  local is_known, may = true, true
  if redis.acl_check_cmd then
    is_known, may = pcall(redis.acl_check_cmd, unpack(words))
  end
  allowed[number] = is_known and may and 1 or 0
end
return allowed
