-- Records of imports. The server keeps a hash as a compact list while its values are short, so compact
-- records have short names, and long texts in pieces (worker/store/records.py). In memory, a record has its
-- full names. Records of earlier formats are written as they are, for the workers of their release.
--
-- needs: base

local COMPACT = RECORD.format
local MOST = RECORD.piece_bytes

local function is_compact(record)
  return tonumber(record.format or 1) >= COMPACT
end

-- The pieces of a text. None ends within a character.
local function pieces_of(text)
  local pieces, from = {}, 1
  while #text - from >= MOST do
    local to = from + MOST - 1
    while to > from and math.floor(string.byte(text, to + 1) / 64) == 2 do -- the middle of a character
      to = to - 1
    end
    pieces[#pieces + 1] = string.sub(text, from, to)
    from = to + 1
  end
  pieces[#pieces + 1] = string.sub(text, from)
  return pieces
end

local function stored_name(name, piece)
  local short = RECORD.short[name] or name
  return piece == 1 and short or short .. ':' .. piece
end

-- Put the texts together whose pieces are in `stored` (name -> piece).
local function join_pieces(record, stored)
  local texts = {}
  for name, piece in pairs(stored) do
    local short, number = string.match(name, '^(.-):(%d+)$')
    local full = RECORD.full[short] or short
    texts[full] = texts[full] or { record[full] or '' }
    texts[full][tonumber(number)] = piece
  end
  for name, pieces in pairs(texts) do
    record[name] = table.concat(pieces)
  end
end

-- The record of an import; an empty one if there is none.
local function read(id)
  local flat = redis.call('HGETALL', KEY.import .. id)
  local record, pieces = {}, nil
  for i = 1, #flat, 2 do
    local name, value = flat[i], flat[i + 1]
    if RECORD.full[name] then
      record[RECORD.full[name]] = value
    elseif string.find(name, ':%d+$') then
      pieces = pieces or {}
      pieces[name] = value
    else
      record[name] = value
    end
  end
  if pieces then
    join_pieces(record, pieces)
  end
  if is_compact(record) then
    record.priority = record.priority or 'normal'
  end
  return record
end

-- Some fields of a record; missing ones are absent.
local function read_some(id, names)
  local asked = {}
  for i, name in ipairs(names) do
    asked[i], asked[#names + i] = name, RECORD.short[name] or name
  end
  local found = redis.call('HMGET', KEY.import .. id, unpack(asked))
  local record = {}
  for i, name in ipairs(names) do
    record[name] = found[#names + i] or found[i] or nil
  end
  return record
end

local function text_of(value)
  return type(value) == 'number' and string.format('%.17g', value) or tostring(value)
end

-- Write `fields` (a table; false removes a field) to a record and to its copy in memory, which must be whole.
-- Numbers are exact.
local function put(id, copy, fields)
  local key = KEY.import .. id
  if not is_compact(fields.format and fields or copy) then
    base.put(key, copy, fields)
    return
  end
  local set, gone = {}, {}
  for name, value in pairs(fields) do
    local old, new = copy[name], value ~= false and text_of(value) or nil
    if old ~= new then
      local is_long = RECORD.in_pieces[name] and math.max(#(old or ''), #(new or '')) > MOST
      local pieces = is_long and new and pieces_of(new) or { new }
      for number, piece in ipairs(pieces) do
        set[#set + 1] = stored_name(name, number)
        set[#set + 1] = piece
      end
      for number = #pieces + 1, old and (is_long and #pieces_of(old) or 1) or 0 do
        gone[#gone + 1] = stored_name(name, number)
      end
      copy[name] = new
    end
  end
  if #set > 0 then
    redis.call('HSET', key, unpack(set))
  end
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
  end
end

-- Let `fields` remove what says where an import waits. A normal priority need not be stored after its end.
local function forget_place(record, fields)
  fields.sequence, fields.order = false, false
  if record.priority == 'normal' then
    fields.priority = false
  end
end

-- Whether the import was admitted, and not rejected at once. Only then is its record compact.
local function was_accepted(record)
  return is_compact(record) or record.sequence ~= nil
end

return {
  is_compact = is_compact,
  read = read,
  read_some = read_some,
  put = put,
  forget_place = forget_place,
  was_accepted = was_accepted,
}
