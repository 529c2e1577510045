
-- How a job comes: its parts are uploaded in pieces, then it is accepted in one step, then its inputs are queued in pieces.

local FILLING = PREFIX .. 'filling'

-- What was uploaded for a job that is not accepted takes no room until it expires.
local function discard(id)
  if redis.call('HEXISTS', at('job', id), 'status') == 0 then forget(id, 0) end
end

local function refuse(id, words)
  discard(id)
  return redis.error_reply(words)
end

-- Counts what is to be uploaded, in a job that is none yet. The refusal where there is no room.
local function reserve(id, caller, bytes, input_bytes)
  local job = at('job', id)
  local is_new = redis.call('HEXISTS', job, 'bytes') == 0
  local more = bytes + (is_new and JOB_BYTES or 0)
  local words = make_room(caller, more)
  if words then return words end
  if is_new then
    redis.call('HSET', job, 'bytes', 0, 'input_bytes', 0)
    if caller ~= '' then redis.call('HSET', job, 'caller', caller) end
  end
  redis.call('ZADD', PREFIX .. 'expiring', now() + UPLOAD_MS, id)
  charge_job(id, more, input_bytes)
end

-- The id, the caller, and where the pairs of `args` begin: before an odd number of arguments stands a caller.
local function uploaded(keys, args)
  local has_caller = #args % 2 == 1
  return named(keys[1]), has_caller and args[1] or '', has_caller and 2 or 1
end

-- FCALL mlserve_upload 1 mlserve:{jobs}:inputs:<id> [caller] [index bytes]…: before mlserve_submit, in as many calls as it takes.
-- `caller` is whose share of the queue the job counts against.
local function upload(keys, args)
  local id, caller, first = uploaded(keys, args)
  local bytes, new = 0, {}
  for place = first, #args, 2 do
    -- A call that is repeated because its reply was lost changes nothing.
    if redis.call('HEXISTS', keys[1], args[place]) == 0 then
      bytes = bytes + allocated(#args[place + 1])
      table.insert(new, args[place])
      table.insert(new, args[place + 1])
    end
  end
  local words = reserve(id, caller, bytes + #new / 2 * INPUT_BYTES, bytes)
  if words then return refuse(id, words) end
  return #new > 0 and redis.call('HSET', keys[1], unpack(new)) or 0
end

-- FCALL mlserve_upload_known 1 mlserve:{jobs}:inputs:<id> [caller] [index outcome]…: inputs that need not be worked on.
local function upload_known(keys, args)
  local id, caller, first = uploaded(keys, args)
  local bytes, new = 0, {}
  for place = first, #args, 2 do
    if redis.call('HEXISTS', at('results', id), args[place]) == 0 then
      bytes = bytes + allocated(#args[place + 1]) + INPUT_BYTES
      table.insert(new, place)
    end
  end
  local words = reserve(id, caller, bytes, 0)
  if words then return refuse(id, words) end
  if redis.call('EXISTS', at('events', id)) == 0 then tell(id, 'status', 'queued') end
  for _, place in ipairs(new) do
    redis.call('HSET', at('results', id), args[place], args[place + 1])
    redis.call('HINCRBY', at('job', id), string.sub(args[place + 1], 1, 1) == '+' and 'done' or 'failed', 1)
    tell(id, 'index', args[place])
  end
  return #new
end

-- FCALL mlserve_upload_names 1 mlserve:{jobs}:inputs:<id> [caller] offset name…: names from this one on; the last ones come with
-- mlserve_submit.
local function upload_names(keys, args)
  local id, caller, offset = named(keys[1]), args[1], tonumber(args[2])
  if redis.call('LLEN', at('names', id)) ~= offset then return 0 end
  local bytes = 0
  for place = 3, #args do bytes = bytes + allocated(#args[place]) end
  local words = reserve(id, caller, bytes, 0)
  if words then return refuse(id, words) end
  return redis.call('RPUSH', at('names', id), unpack(args, 3))
end

-- FCALL mlserve_discard 1 mlserve:{jobs}:inputs:<id>: the job of what was uploaded is not submitted. 1, or 0 if it has been.
local function discard_upload(keys)
  local id = named(keys[1])
  if redis.call('HEXISTS', at('job', id), 'status') == 1 then return 0 end
  discard(id)
  return 1
end

-- Queues the inputs of the next PIECE indices. Whether there are more.
local function fill(id)
  local job = at('job', id)
  local fields = redis.call('HMGET', job, 'status', 'model', 'total', 'next')
  if not fields[4] or not runs(fields[1]) then
    redis.call('SREM', FILLING, id)
    return 0
  end
  local from, queue = tonumber(fields[4]), at('queue', fields[2])
  local till = math.min(tonumber(fields[3]), from + PIECE)
  local first, last, freed
  for index = from, till - 1 do
    if redis.call('HEXISTS', at('inputs', id), index) == 1 then
      -- The error of an input that is tried again.
      freed = (freed or 0) + allocated(redis.call('HSTRLEN', at('results', id), index))
      redis.call('HDEL', at('results', id), index)
      last = redis.call('XADD', queue, '*', 'job', id, 'index', index)
      first = first or last
    end
  end
  if first then
    redis.call('HSETNX', job, 'first', first)
    redis.call('HSET', job, 'last', last)
    redis.call('SADD', PREFIX .. 'queues', fields[2])
    if freed > 0 then charge_job(id, -freed, 0) end
  end
  if till < tonumber(fields[3]) then
    redis.call('HSET', job, 'next', till)
    return 1
  end
  redis.call('HDEL', job, 'next')
  redis.call('SREM', FILLING, id)
  return 0
end

-- The first piece goes at once. The others stay known, in case that who submits ends before they have gone.
local function begin_to_fill(id, total)
  redis.call('HSET', at('job', id), 'next', 0)
  if total > PIECE then redis.call('SADD', FILLING, id) end
  fill(id)
end

-- FCALL mlserve_fill 1 mlserve:{jobs}:job:<id>: after mlserve_submit or mlserve_retry, until it says 0. Whether there is more to queue.
local function fill_job(keys) return fill(named(keys[1])) end

-- A stream has 4 KB from its first entry on; a copy has what its entries take.
local function shrink(key)
  redis.call('COPY', key, key .. ':')
  redis.call('RENAME', key .. ':', key)
end

-- The refusal of so many inputs more; nothing where the queue of the model is not too long.
local function too_long(model, caller, waiting, max_length)
  local length = redis.call('XLEN', at('queue', model))
  if waiting == 0 then return nil end
  if length + waiting > max_length then return 'LONG ' .. length end
  if caller == '' then return nil end
  return over_share('inputs', count_of(CALLERS, 'inputs ' .. caller), length, max_length, waiting)
end

-- FCALL mlserve_submit 1 mlserve:{jobs}:job:<id> model total ttl_ms max_length once once_digest names fields [index outcome]…
-- `once` is the idempotency key, or empty; `names` a JSON array, behind those of mlserve_upload_names; `fields` a JSON object of further
-- fields of the job; an outcome is known from the start. The id of the job: another's where `once` has been used for the same. Then
-- mlserve_fill.
local function submit(keys, args)
  local job, id = keys[1], named(keys[1])
  local model, total, ttl, max_length = args[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local once, digest = args[5], args[6]
  local before = redis.call('HMGET', job, 'status', 'caller', 'done', 'failed')
  -- Asked again by who did not hear the answer.
  if before[1] then return id end
  if once ~= '' then
    local other = redis.call('HMGET', at('once', once), 'job', 'digest')
    if other[1] then
      if other[2] ~= digest then return refuse(id, 'CONFLICT the key was used for another job') end
      discard(id)
      return other[1]
    end
  end
  local caller, done, failed = before[2] or '', before[3] or 0, before[4] or 0
  local waiting = total - done - failed - (#args - 8) / 2
  local bytes = #args[7] + #args[8] + (once ~= '' and 512 + #once or 0)
  local words = too_long(model, caller, waiting, max_length) or reserve(id, caller, bytes, 0)
  if words then return refuse(id, words) end
  local time = now()
  redis.call('HSET', job, 'model', model, 'status', 'queued', 'total', total, 'done', done, 'failed', failed, 'dead', 0, 'runs', 0,
    'created', time, 'ttl', ttl, 'once', once)
  charge(caller, 0, total - done - failed)
  for field, value in pairs(cjson.decode(args[8])) do redis.call('HSET', job, field, value) end
  local names = cjson.decode(args[7])
  if total == 1 and names[1] then
    -- A list of its own would take several times as much.
    redis.call('HSET', job, 'name', names[1])
  else
    for _, name in ipairs(names) do redis.call('RPUSH', at('names', id), name) end
  end
  redis.call('ZADD', PREFIX .. 'known', time, id)
  redis.call('ZREM', PREFIX .. 'expiring', id)
  if once ~= '' then redis.call('HSET', at('once', once), 'job', id, 'digest', digest) end
  local content = redis.call('HGET', job, 'content')
  if content then redis.call('HSET', at('same', model), content, id) end
  if redis.call('EXISTS', at('events', id)) == 0 then tell(id, 'status', 'queued') end
  for place = 9, #args, 2 do settle(id, args[place], args[place + 1]) end
  if total == done + failed then finish_if_complete(id) end
  shrink(at('events', id))
  if waiting > 0 then begin_to_fill(id, total) end
  return id
end

-- FCALL mlserve_repeat 1 mlserve:{jobs}:job:<id> model content ttl_ms max_age_ms [caller]: a job that has ended, with the answers of the
-- one of the same content, where there is one that has succeeded and is not older than that, and room. Whether there is.
local function repeat_job(keys, args)
  local job, id, model, caller = keys[1], named(keys[1]), args[1], args[5] or ''
  -- Asked again by who did not hear the answer.
  if redis.call('EXISTS', job) == 1 then return 1 end
  local first = redis.call('HGET', at('same', model), args[2])
  if not first then return 0 end
  local fields = redis.call('HMGET', at('job', first), 'status', 'finished', 'total', 'skipped', 'bytes', 'name')
  local time, bytes = now(), tonumber(fields[5] or JOB_BYTES)
  if fields[1] ~= 'succeeded' or time - fields[2] > tonumber(args[4]) or make_room(caller, bytes) then return 0 end
  for _, what in ipairs({ 'names', 'results', 'events' }) do redis.call('COPY', at(what, first), at(what, id)) end
  redis.call('HSET', job, 'model', model, 'status', 'succeeded', 'total', fields[3], 'done', fields[3], 'failed', 0, 'dead', 0,
    'runs', 0, 'created', time, 'finished', time, 'ttl', args[3], 'once', '', 'bytes', bytes, 'input_bytes', 0)
  if caller ~= '' then redis.call('HSET', job, 'caller', caller) end
  if fields[4] then redis.call('HSET', job, 'skipped', fields[4]) end
  if fields[6] then redis.call('HSET', job, 'name', fields[6]) end
  charge(caller, bytes)
  redis.call('ZADD', PREFIX .. 'known', time, id)
  redis.call('ZADD', PREFIX .. 'expiring', time + args[3], id)
  return 1
end
