
-- Submission: the parts of a job are uploaded in chunks, the job is accepted in one step, and its inputs are queued in chunks.

local FILLING = PREFIX .. 'filling'

-- Deletes the upload of a job that is not accepted before it expires.
local function discard(id)
  if redis.call('HEXISTS', key_for('job', id), 'status') == 0 then delete_job(id, 0) end
end

local function reject(id, message)
  discard(id)
  return redis.error_reply(message)
end

-- Counts the bytes of an upload, in a job hash that is not a job yet. Returns the error where they do not fit.
local function reserve(id, caller, bytes, input_bytes)
  local job = key_for('job', id)
  local is_new = redis.call('HEXISTS', job, 'bytes') == 0
  local more = bytes + (is_new and JOB_BYTES or 0)
  local message = reserve_capacity(caller, more)
  if message then return message end
  if is_new then
    redis.call('HSET', job, 'bytes', 0, 'input_bytes', 0)
    if caller ~= '' then redis.call('HSET', job, 'caller', caller) end
  end
  redis.call('ZADD', PREFIX .. 'expiring', now() + UPLOAD_MS, id)
  charge_job(id, more, input_bytes)
end

-- Returns the id, the caller, and the index of the first pair in `args`. An odd number of arguments starts with the caller.
local function parse_upload(keys, args)
  local has_caller = #args % 2 == 1
  return name_from_key(keys[1]), has_caller and args[1] or '', has_caller and 2 or 1
end

-- FCALL mlserve_upload 1 mlserve:{jobs}:inputs:<id> [caller] [index bytes]…: uploads inputs before mlserve_submit, in any number
-- of calls. The job counts against the quota of `caller`.
local function upload(keys, args)
  local id, caller, first = parse_upload(keys, args)
  local bytes, new = 0, {}
  for i = first, #args, 2 do
    -- A call that is repeated because its reply was lost changes nothing.
    if redis.call('HEXISTS', keys[1], args[i]) == 0 then
      bytes = bytes + allocated(#args[i + 1])
      table.insert(new, args[i])
      table.insert(new, args[i + 1])
    end
  end
  local message = reserve(id, caller, bytes + #new / 2 * INPUT_BYTES, bytes)
  if message then return reject(id, message) end
  return #new > 0 and redis.call('HSET', keys[1], unpack(new)) or 0
end

-- FCALL mlserve_upload_known 1 mlserve:{jobs}:inputs:<id> [caller] [index outcome]…: uploads outcomes of inputs that need no
-- processing.
local function upload_known(keys, args)
  local id, caller, first = parse_upload(keys, args)
  local bytes, new = 0, {}
  for i = first, #args, 2 do
    if redis.call('HEXISTS', key_for('results', id), args[i]) == 0 then
      bytes = bytes + allocated(#args[i + 1]) + INPUT_BYTES
      table.insert(new, i)
    end
  end
  local message = reserve(id, caller, bytes, 0)
  if message then return reject(id, message) end
  if redis.call('EXISTS', key_for('events', id)) == 0 then publish_event(id, 'status', 'queued') end
  for _, i in ipairs(new) do
    redis.call('HSET', key_for('results', id), args[i], args[i + 1])
    redis.call('HINCRBY', key_for('job', id), string.sub(args[i + 1], 1, 1) == '+' and 'done' or 'failed', 1)
    publish_event(id, 'index', args[i])
  end
  return #new
end

-- FCALL mlserve_upload_names 1 mlserve:{jobs}:inputs:<id> [caller] offset name…: uploads names from this offset on. The last
-- names are an argument of mlserve_submit.
local function upload_names(keys, args)
  local id, caller, offset = name_from_key(keys[1]), args[1], tonumber(args[2])
  if redis.call('LLEN', key_for('names', id)) ~= offset then return 0 end
  local bytes = 0
  for i = 3, #args do bytes = bytes + allocated(#args[i]) end
  local message = reserve(id, caller, bytes, 0)
  if message then return reject(id, message) end
  return redis.call('RPUSH', key_for('names', id), unpack(args, 3))
end

-- FCALL mlserve_discard 1 mlserve:{jobs}:inputs:<id>: deletes an upload that is not submitted. 1, or 0 if it was submitted.
local function discard_upload(keys)
  local id = name_from_key(keys[1])
  if redis.call('HEXISTS', key_for('job', id), 'status') == 1 then return 0 end
  discard(id)
  return 1
end

-- Queues the inputs of the next CHUNK indices. Returns whether there are more.
local function fill(id)
  local job = key_for('job', id)
  local fields = redis.call('HMGET', job, 'status', 'model', 'total', 'next')
  if not fields[4] or not is_active(fields[1]) then
    redis.call('SREM', FILLING, id)
    return 0
  end
  local from, queue = tonumber(fields[4]), key_for('queue', fields[2])
  local stop = math.min(tonumber(fields[3]), from + CHUNK)
  local first, last, freed
  for index = from, stop - 1 do
    if redis.call('HEXISTS', key_for('inputs', id), index) == 1 then
      -- Deletes the error of an input that is retried.
      freed = (freed or 0) + allocated(redis.call('HSTRLEN', key_for('results', id), index))
      redis.call('HDEL', key_for('results', id), index)
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
  if stop < tonumber(fields[3]) then
    redis.call('HSET', job, 'next', stop)
    return 1
  end
  redis.call('HDEL', job, 'next')
  redis.call('SREM', FILLING, id)
  return 0
end

-- Queues the first chunk immediately. The set FILLING keeps the job, in case that its submitter dies before the other chunks are
-- queued.
local function start_filling(id, total)
  redis.call('HSET', key_for('job', id), 'next', 0)
  if total > CHUNK then redis.call('SADD', FILLING, id) end
  fill(id)
end

-- FCALL mlserve_fill 1 mlserve:{jobs}:job:<id>: queues the next inputs after mlserve_submit or mlserve_retry. Call it until it
-- returns 0. 1 if there are more inputs.
local function fill_job(keys) return fill(name_from_key(keys[1])) end

-- A stream reserves 4 KB with its first entry; a copy uses only what its entries need.
local function shrink(key)
  redis.call('COPY', key, key .. ':')
  redis.call('RENAME', key .. ':', key)
end

-- The error for this many further inputs; nil where the queue of the model has capacity for them.
local function queue_length_error(model, caller, waiting, max_length)
  local length = redis.call('XLEN', key_for('queue', model))
  if waiting == 0 then return nil end
  if length + waiting > max_length then return 'LONG ' .. length end
  if caller == '' then return nil end
  return quota_error('inputs', count_of(CALLERS, 'inputs ' .. caller), length, max_length, waiting)
end

-- FCALL mlserve_submit 1 mlserve:{jobs}:job:<id> model total ttl_ms max_length once once_digest names fields [index outcome]…
-- `once` is the idempotency key, or empty. `names` is a JSON array that follows the names of mlserve_upload_names. `fields` is a
-- JSON object of further fields of the job. The outcomes are those of inputs that need no processing. Returns the id of the job,
-- or of an earlier job where `once` was used for the same submission. Call mlserve_fill afterwards.
local function submit(keys, args)
  local job, id = keys[1], name_from_key(keys[1])
  local model, total, ttl, max_length = args[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local once, digest = args[5], args[6]
  local before = redis.call('HMGET', job, 'status', 'caller', 'done', 'failed')
  -- A repeated call, because the reply was lost.
  if before[1] then return id end
  if once ~= '' then
    local other = redis.call('HMGET', key_for('once', once), 'job', 'digest')
    if other[1] then
      if other[2] ~= digest then return reject(id, 'CONFLICT the key was used for another job') end
      discard(id)
      return other[1]
    end
  end
  local caller, done, failed = before[2] or '', before[3] or 0, before[4] or 0
  local waiting = total - done - failed - (#args - 8) / 2
  local bytes = #args[7] + #args[8] + (once ~= '' and 512 + #once or 0)
  local message = queue_length_error(model, caller, waiting, max_length) or reserve(id, caller, bytes, 0)
  if message then return reject(id, message) end
  local time = now()
  redis.call('HSET', job, 'model', model, 'status', 'queued', 'total', total, 'done', done, 'failed', failed, 'dead', 0, 'runs', 0,
    'created', time, 'ttl', ttl, 'once', once)
  charge(caller, 0, total - done - failed)
  for field, value in pairs(cjson.decode(args[8])) do redis.call('HSET', job, field, value) end
  local names = cjson.decode(args[7])
  if total == 1 and names[1] then
    -- A list for a single name would use several times the memory.
    redis.call('HSET', job, 'name', names[1])
  else
    for _, name in ipairs(names) do redis.call('RPUSH', key_for('names', id), name) end
  end
  redis.call('ZADD', PREFIX .. 'known', time, id)
  redis.call('ZREM', PREFIX .. 'expiring', id)
  if once ~= '' then redis.call('HSET', key_for('once', once), 'job', id, 'digest', digest) end
  local content = redis.call('HGET', job, 'content')
  if content then redis.call('HSET', key_for('same', model), content, id) end
  if redis.call('EXISTS', key_for('events', id)) == 0 then publish_event(id, 'status', 'queued') end
  for i = 9, #args, 2 do record_outcome(id, args[i], args[i + 1]) end
  if total == done + failed then finish_if_complete(id) end
  shrink(key_for('events', id))
  if waiting > 0 then start_filling(id, total) end
  return id
end

-- FCALL mlserve_repeat 1 mlserve:{jobs}:job:<id> model content ttl_ms max_age_ms [caller]: creates a finished copy of the job
-- with the same deduplication key. That job must have succeeded at most max_age_ms ago, and the copy must fit into memory and
-- quota. 1 if it created the copy.
local function repeat_job(keys, args)
  local job, id, model, caller = keys[1], name_from_key(keys[1]), args[1], args[5] or ''
  -- A repeated call, because the reply was lost.
  if redis.call('EXISTS', job) == 1 then return 1 end
  local first = redis.call('HGET', key_for('same', model), args[2])
  if not first then return 0 end
  local fields = redis.call('HMGET', key_for('job', first), 'status', 'finished', 'total', 'skipped', 'bytes', 'name')
  local time, bytes = now(), tonumber(fields[5] or JOB_BYTES)
  if fields[1] ~= 'succeeded' or time - fields[2] > tonumber(args[4]) or reserve_capacity(caller, bytes) then return 0 end
  for _, part in ipairs({ 'names', 'results', 'events' }) do redis.call('COPY', key_for(part, first), key_for(part, id)) end
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
