#!lua name=mlserve_jobs
-- What happens to jobs, each step as a whole or not at all. web_api loads this library; programs in any language call it
-- with FCALL, as docs/JOBS.md says. Every function takes one key, that of its job or of its model's queue; all keys share
-- the tag {jobs}, and with it a slot of a cluster. Times are Redis's own, in milliseconds.

local PREFIX = 'mlserve:{jobs}:'
local GROUP = 'workers'
-- What was uploaded for a job that nobody submitted goes after so long.
local UPLOAD_MS = 600000
-- A consumer that holds nothing and has not asked for so long belonged to a process that has ended.
local CONSUMER_MS = 3600 * 1000
-- So long an id that has expired is told from one that never was.
local GONE_MS = 7 * 24 * 3600 * 1000

local function at(what, id) return PREFIX .. what .. ':' .. id end

-- The last part of a key: the job's id or the model's name.
local function named(key) return string.match(key, '^mlserve:{jobs}:%l+:(.+)$') end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function tell(id, field, value) redis.call('XADD', at('events', id), '*', field, value) end

-- Room is kept for the results of what has been accepted: nothing new from four fifths of maxmemory on.
local function is_full()
  local info = redis.call('INFO', 'memory')
  local used = tonumber(string.match(info, 'used_memory:(%d+)'))
  local most = tonumber(string.match(info, 'maxmemory:(%d+)'))
  return most > 0 and used > most * 0.8
end

local function runs(status) return status == 'queued' or status == 'running' end

local function finish_job(id, status)
  local job = at('job', id)
  local time = now()
  redis.call('HSET', job, 'status', status, 'finished', time)
  redis.call('ZADD', PREFIX .. 'expiring', time + redis.call('HGET', job, 'ttl'), id)
  if redis.call('HGET', job, 'webhook') then redis.call('ZADD', PREFIX .. 'webhooks', time, id) end
  redis.call('DEL', at('begun', id))
  if status ~= 'failed' then redis.call('DEL', at('inputs', id)) end
  tell(id, 'status', status)
end

local function finish_if_complete(id)
  local counts = redis.call('HMGET', at('job', id), 'total', 'done', 'failed')
  if counts[2] + counts[3] == tonumber(counts[1]) then
    finish_job(id, tonumber(counts[3]) > 0 and 'failed' or 'succeeded')
  end
end

local function drop(queue, entry)
  redis.call('XACK', queue, GROUP, entry)
  redis.call('XDEL', queue, entry)
end

-- A hash, index -> twice the number of workers that have died over this input, and one more while a worker has begun with it.
local function begun(id, index) return tonumber(redis.call('HGET', at('begun', id), index) or 0) end

local function set_begun(id, index, count)
  if count > 0 then
    redis.call('HSET', at('begun', id), index, count)
  else
    redis.call('HDEL', at('begun', id), index)
  end
end

-- A job is no longer the one whose answers are given to whoever submits the same.
local function forget_content(id)
  local fields = redis.call('HMGET', at('job', id), 'model', 'content')
  if fields[2] and redis.call('HGET', at('same', fields[1]), fields[2]) == id then
    redis.call('HDEL', at('same', fields[1]), fields[2])
  end
end

-- Whoever is second changes nothing.
local function settle(id, index, outcome)
  local job = at('job', id)
  local fields = redis.call('HMGET', job, 'status', 'digest')
  if not runs(fields[1]) then return 0 end
  if redis.call('HSETNX', at('results', id), index, outcome) == 0 then return 0 end
  local answered = string.sub(outcome, 1, 1) == '+'
  -- The model has changed since the job was submitted: what is asked of that one has other answers.
  if fields[2] and not string.find(outcome, '"model_digest":"' .. fields[2] .. '"', 1, true) then forget_content(id) end
  redis.call('HINCRBY', job, answered and 'done' or 'failed', 1)
  set_begun(id, index, 0)
  -- The input of one that failed stays: it can be tried again.
  if answered then redis.call('HDEL', at('inputs', id), index) end
  tell(id, 'index', index)
  finish_if_complete(id)
  return 1
end

local function enqueue(id, model, indices)
  local first, last
  for _, index in ipairs(indices) do
    last = redis.call('XADD', at('queue', model), '*', 'job', id, 'index', index)
    first = first or last
  end
  if not first then return end
  redis.call('HSETNX', at('job', id), 'first', first)
  redis.call('HSET', at('job', id), 'last', last)
end

-- What was uploaded for a job that is not accepted takes no room until it expires.
local function discard(id)
  redis.call('DEL', at('inputs', id))
  redis.call('ZREM', PREFIX .. 'expiring', id)
end

local function refuse(id, words)
  discard(id)
  return redis.error_reply(words)
end

local FULL = 'FULL Redis has no room for more jobs'

-- FCALL mlserve_upload 1 mlserve:{jobs}:inputs:<id> [index bytes]…: before mlserve_submit, in as many calls as it takes.
local function upload(keys, args)
  if is_full() then return refuse(named(keys[1]), FULL) end
  redis.call('ZADD', PREFIX .. 'expiring', now() + UPLOAD_MS, named(keys[1]))
  return redis.call('HSET', keys[1], unpack(args))
end

-- FCALL mlserve_discard 1 mlserve:{jobs}:inputs:<id>: the job of what was uploaded is not submitted. 1, or 0 if it has been.
local function discard_upload(keys)
  local id = named(keys[1])
  if redis.call('EXISTS', at('job', id)) == 1 then return 0 end
  discard(id)
  return 1
end

-- FCALL mlserve_submit 1 mlserve:{jobs}:job:<id> model total ttl_ms max_length once once_digest names fields [index outcome]…
-- `once` is the idempotency key, or empty; `names` a JSON array; `fields` a JSON object of further fields of the job; an
-- outcome is known from the start. The id of the job: another's where `once` has been used for the same.
local function submit(keys, args)
  local job, id = keys[1], named(keys[1])
  local model, total, ttl, max_length = args[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local once, digest = args[5], args[6]
  -- Asked again by who did not hear the answer.
  if redis.call('EXISTS', job) == 1 then return id end
  if once ~= '' then
    local before = redis.call('HMGET', at('once', once), 'job', 'digest')
    if before[1] then
      if before[2] ~= digest then return refuse(id, 'CONFLICT the key was used for another job') end
      discard(id)
      return before[1]
    end
  end
  local known = {}
  for place = 9, #args, 2 do known[args[place]] = true end
  local waiting = {}
  for index = 0, total - 1 do
    if not known[tostring(index)] then table.insert(waiting, index) end
  end
  local length = redis.call('XLEN', at('queue', model))
  if #waiting > 0 and length + #waiting > max_length then
    return refuse(id, 'LONG ' .. length)
  end
  if is_full() then return refuse(id, FULL) end
  local time = now()
  redis.call('HSET', job, 'model', model, 'status', 'queued', 'total', total, 'done', 0, 'failed', 0, 'dead', 0, 'runs', 0,
    'created', time, 'ttl', ttl, 'once', once)
  for field, value in pairs(cjson.decode(args[8])) do redis.call('HSET', job, field, value) end
  for _, name in ipairs(cjson.decode(args[7])) do redis.call('RPUSH', at('names', id), name) end
  redis.call('ZADD', PREFIX .. 'known', time, id)
  redis.call('ZREM', PREFIX .. 'expiring', id)
  if once ~= '' then redis.call('HSET', at('once', once), 'job', id, 'digest', digest) end
  local content = redis.call('HGET', job, 'content')
  if content then redis.call('HSET', at('same', model), content, id) end
  tell(id, 'status', 'queued')
  for place = 9, #args, 2 do settle(id, args[place], args[place + 1]) end
  enqueue(id, model, waiting)
  return id
end

-- FCALL mlserve_repeat 1 mlserve:{jobs}:job:<id> model content ttl_ms max_age_ms: a job that has ended, with the answers of the one
-- of the same content, where there is one that has succeeded and is not older than that. Whether there is.
local function repeat_job(keys, args)
  local job, id, model = keys[1], named(keys[1]), args[1]
  -- Asked again by who did not hear the answer.
  if redis.call('EXISTS', job) == 1 then return 1 end
  local first = redis.call('HGET', at('same', model), args[2])
  if not first then return 0 end
  local fields = redis.call('HMGET', at('job', first), 'status', 'finished', 'total', 'skipped')
  local time = now()
  if fields[1] ~= 'succeeded' or time - fields[2] > tonumber(args[4]) or is_full() then return 0 end
  for _, what in ipairs({ 'names', 'results', 'events' }) do redis.call('COPY', at(what, first), at(what, id)) end
  redis.call('HSET', job, 'model', model, 'status', 'succeeded', 'total', fields[3], 'done', fields[3], 'failed', 0, 'dead', 0,
    'runs', 0, 'created', time, 'finished', time, 'ttl', args[3], 'once', '')
  if fields[4] then redis.call('HSET', job, 'skipped', fields[4]) end
  redis.call('ZADD', PREFIX .. 'known', time, id)
  redis.call('ZADD', PREFIX .. 'expiring', time + args[3], id)
  return 1
end

-- FCALL mlserve_begin 1 mlserve:{jobs}:queue:<model> entry job index [bare]: the input's bytes (none with `bare`) and the job's kind,
-- version, content type, JSON length and, where the job has one, top_k; nothing, and the entry is gone, when it need not be done any more.
local function begin(keys, args)
  local entry, id, index, bare = args[1], args[2], args[3], args[4] == 'bare'
  local job = at('job', id)
  local fields = redis.call('HMGET', job, 'status', 'kind', 'version', 'content_type', 'json_length', 'top_k')
  local is_there = redis.call('HEXISTS', at('inputs', id), index) == 1
  if not runs(fields[1]) or not is_there or redis.call('HEXISTS', at('results', id), index) == 1 then
    drop(keys[1], entry)
    return false
  end
  if fields[1] == 'queued' then
    redis.call('HSET', job, 'status', 'running', 'started', now())
    tell(id, 'status', 'running')
  end
  redis.call('HINCRBY', job, 'runs', 1)
  local count = begun(id, index)
  if count % 2 == 0 then set_begun(id, index, count + 1) end
  local input = bare and '' or redis.call('HGET', at('inputs', id), index)
  return { input, fields[2], fields[3] or '', fields[4] or '', fields[5] or '', fields[6] or nil }
end

-- FCALL mlserve_finish 1 mlserve:{jobs}:queue:<model> entry job index outcome: `+` and an answer in JSON, or `-` and an error in
-- JSON. 1 if it counted, 0 if another was first or the job has been cancelled.
local function finish(keys, args)
  drop(keys[1], args[1])
  return settle(args[2], args[3], args[4])
end

-- FCALL mlserve_beat 1 mlserve:{jobs}:queue:<model> consumer entry…: they are still being worked on. How many still are this
-- consumer's; those that others have taken over are left to them.
local function beat(keys, args)
  local mine = 0
  for place = 2, #args do
    if #redis.call('XPENDING', keys[1], GROUP, args[place], args[place], 1, args[1]) > 0 then
      redis.call('XCLAIM', keys[1], GROUP, args[1], 0, args[place], 'JUSTID')
      mine = mine + 1
    end
  end
  return mine
end

-- FCALL mlserve_hand_back 1 mlserve:{jobs}:queue:<model> consumer entry…: this consumer does not finish them. Others get them at once,
-- and nobody has died. How many those were.
local function hand_back(keys, args)
  local queue, consumer, count = keys[1], args[1], 0
  for place = 2, #args do
    local entry = args[place]
    if #redis.call('XPENDING', queue, GROUP, entry, entry, 1, consumer) > 0 then
      local found = redis.call('XRANGE', queue, entry, entry)[1]
      drop(queue, entry)
      local id, index = found and found[2][2], found and found[2][4]
      if id and runs(redis.call('HGET', at('job', id), 'status')) then
        redis.call('HSET', at('job', id), 'last', redis.call('XADD', queue, '*', unpack(found[2])))
        local deaths = begun(id, index)
        set_begun(id, index, deaths - deaths % 2)
        count = count + 1
      end
    end
  end
  return count
end

local function bury(queue, entry, id, index, deaths)
  local reason = 'the worker died ' .. deaths .. ' times while it worked on this input'
  drop(queue, entry)
  if settle(id, index, '-' .. cjson.encode({ status = 500, detail = reason })) == 1 then
    local grave = redis.call('XADD', PREFIX .. 'dead', '*', 'job', id, 'index', index, 'model', named(queue), 'reason', reason)
    redis.call('HINCRBY', at('job', id), 'dead', 1)
    redis.call('RPUSH', at('graves', id), grave)
  end
end

-- Milliseconds since each consumer of the queue was heard of: it took entries, or said that it still works on some.
local function silences(queue)
  local found = {}
  for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', queue, GROUP)) do
    local consumer = {}
    for place = 1, #fields, 2 do consumer[fields[place]] = fields[place + 1] end
    found[consumer.name] = consumer.idle
  end
  return found
end

local function forget_consumers(queue)
  for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', queue, GROUP)) do
    local consumer = {}
    for place = 1, #fields, 2 do consumer[fields[place]] = fields[place + 1] end
    if consumer.pending == 0 and consumer.idle > CONSUMER_MS then
      redis.call('XGROUP', 'DELCONSUMER', queue, GROUP, consumer.name)
    end
  end
end

-- FCALL mlserve_take_over 1 mlserve:{jobs}:queue:<model> consumer idle_ms max_deaths count: entries that no worker has spoken of for
-- so long, as entry, job, index, …. A consumer that has been silent for as long has died. An input over which so many have died, each
-- after it had begun with it, fails instead.
local function take_over(keys, args)
  local queue, consumer, idle, most, count = keys[1], args[1], args[2], tonumber(args[3]), args[4]
  local taken, silent = {}, silences(queue)
  for _, pending in ipairs(redis.call('XPENDING', queue, GROUP, 'IDLE', idle, '-', '+', count)) do
    local entry, owner = pending[1], pending[2]
    local found = redis.call('XRANGE', queue, entry, entry)[1]
    if not found then
      redis.call('XACK', queue, GROUP, entry)
    else
      local id, index = found[2][2], found[2][4]
      local deaths = begun(id, index)
      if deaths % 2 == 1 then
        local has_died = owner ~= consumer and (silent[owner] or 0) >= tonumber(idle)
        deaths = has_died and deaths + 1 or deaths - 1
        set_begun(id, index, deaths)
      end
      if deaths / 2 >= most then
        bury(queue, entry, id, index, deaths / 2)
      else
        redis.call('XCLAIM', queue, GROUP, consumer, idle, entry)
        for _, part in ipairs({ entry, id, index }) do table.insert(taken, part) end
      end
    end
  end
  forget_consumers(queue)
  return taken
end

-- FCALL mlserve_cancel 1 mlserve:{jobs}:job:<id>: what has not begun does not begin. 1, or 0 if it had ended before.
local function cancel(keys)
  local id = named(keys[1])
  local fields = redis.call('HMGET', keys[1], 'status', 'model', 'first', 'last')
  if not runs(fields[1]) then return 0 end
  finish_job(id, 'cancelled')
  if fields[3] then
    local queue = at('queue', fields[2])
    for _, entry in ipairs(redis.call('XRANGE', queue, fields[3], fields[4])) do
      if entry[2][2] == id then drop(queue, entry[1]) end
    end
  end
  return 1
end

local function forget_graves(id)
  for _, grave in ipairs(redis.call('LRANGE', at('graves', id), 0, -1)) do redis.call('XDEL', PREFIX .. 'dead', grave) end
  redis.call('DEL', at('graves', id))
end

-- FCALL mlserve_retry 1 mlserve:{jobs}:job:<id>: what has failed is asked once more. How many those are; -1 if there is
-- nothing to try again.
local function retry(keys)
  local id = named(keys[1])
  local fields = redis.call('HMGET', keys[1], 'status', 'model')
  if fields[1] ~= 'failed' then return -1 end
  local indices = {}
  local results = redis.call('HGETALL', at('results', id))
  for place = 1, #results, 2 do
    if string.sub(results[place + 1], 1, 1) == '-' and redis.call('HEXISTS', at('inputs', id), results[place]) == 1 then
      table.insert(indices, results[place])
    end
  end
  if #indices == 0 then return -1 end
  for _, index in ipairs(indices) do redis.call('HDEL', at('results', id), index) end
  redis.call('HINCRBY', keys[1], 'failed', -#indices)
  redis.call('HSET', keys[1], 'status', 'queued', 'dead', 0)
  -- Its next end is told anew.
  redis.call('HDEL', keys[1], 'finished', 'webhook_tries', 'webhook_error', 'webhook_told')
  redis.call('ZREM', PREFIX .. 'expiring', id)
  redis.call('ZREM', PREFIX .. 'webhooks', id)
  forget_graves(id)
  tell(id, 'status', 'queued')
  enqueue(id, fields[2], indices)
  return #indices
end

-- FCALL mlserve_claim_webhooks 1 mlserve:{jobs}:webhooks lease_ms count: jobs whose webhooks are due, as id, until, …. Until then
-- they are the caller's; if he has not settled one by then, it is due again.
local function claim_webhooks(keys, args)
  local time = now()
  local till, claimed = time + args[1], {}
  for _, id in ipairs(redis.call('ZRANGE', keys[1], '-inf', time, 'BYSCORE', 'LIMIT', 0, args[2])) do
    if redis.call('EXISTS', at('job', id)) == 1 then
      redis.call('ZADD', keys[1], till, id)
      -- Counted before it is tried, so that a try which ends its process is seen.
      redis.call('HINCRBY', at('job', id), 'webhook_tries', 1)
      table.insert(claimed, id)
      table.insert(claimed, string.format('%.0f', till))
    else
      redis.call('ZREM', keys[1], id)
    end
  end
  return claimed
end

-- FCALL mlserve_settle_webhook 1 mlserve:{jobs}:webhooks id until told error again_ms: `told` is `delivered`, `failed`, or empty
-- for another try in so many milliseconds. 1 if it counted, 0 if the claim was over.
local function settle_webhook(keys, args)
  local id, told, reason = args[1], args[3], args[4]
  local job = at('job', id)
  if tonumber(redis.call('ZSCORE', keys[1], id) or -1) ~= tonumber(args[2]) then return 0 end
  if reason == '' then
    redis.call('HDEL', job, 'webhook_error')
  else
    redis.call('HSET', job, 'webhook_error', reason)
  end
  if told == '' then
    redis.call('ZADD', keys[1], now() + args[5], id)
  else
    redis.call('HSET', job, 'webhook_told', told)
    redis.call('ZREM', keys[1], id)
  end
  return 1
end

-- FCALL mlserve_sweep 1 mlserve:{jobs}:expiring count: forgets so many of the jobs whose time is over. How many those were.
local function sweep(keys, args)
  local time = now()
  local ids = redis.call('ZRANGE', keys[1], '-inf', time, 'BYSCORE', 'LIMIT', 0, args[1])
  for _, id in ipairs(ids) do
    local once = redis.call('HGET', at('job', id), 'once')
    if once then redis.call('ZADD', PREFIX .. 'gone', time + GONE_MS, id) end
    if once and once ~= '' then redis.call('DEL', at('once', once)) end
    forget_graves(id)
    forget_content(id)
    redis.call('DEL', at('job', id), at('inputs', id), at('results', id), at('events', id), at('names', id), at('begun', id))
    redis.call('ZREM', PREFIX .. 'known', id)
    redis.call('ZREM', PREFIX .. 'webhooks', id)
    redis.call('ZREM', keys[1], id)
  end
  redis.call('ZREMRANGEBYSCORE', PREFIX .. 'gone', '-inf', time)
  return #ids
end

-- FCALL mlserve_announce 1 mlserve:{jobs}:models name json: there is a worker for this model, and this is what the model is. To
-- be said again every few seconds.
local function announce(keys, args)
  redis.call('HSET', keys[1], args[1], args[2])
  redis.call('ZADD', PREFIX .. 'announced', now(), args[1])
  return redis.status_reply('OK')
end

-- FCALL mlserve_announced 1 mlserve:{jobs}:models forget_after_ms: each model that was announced, as name, json, milliseconds since.
local function announced(keys, args)
  local time = now()
  local models = {}
  local seen = redis.call('ZRANGE', PREFIX .. 'announced', 0, -1, 'WITHSCORES')
  for place = 1, #seen, 2 do
    local name, ago = seen[place], time - seen[place + 1]
    if ago > tonumber(args[1]) then
      redis.call('ZREM', PREFIX .. 'announced', name)
      redis.call('HDEL', keys[1], name)
    else
      for _, part in ipairs({ name, redis.call('HGET', keys[1], name) or '', ago }) do table.insert(models, part) end
    end
  end
  return models
end

redis.register_function('mlserve_upload', upload)
redis.register_function('mlserve_announce', announce)
redis.register_function('mlserve_submit', submit)
redis.register_function('mlserve_repeat', repeat_job)
-- These free more than they take, and work that was done must have a place: also above maxmemory.
redis.register_function({ function_name = 'mlserve_discard', callback = discard_upload, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_begin', callback = begin, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_finish', callback = finish, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_beat', callback = beat, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_hand_back', callback = hand_back, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_take_over', callback = take_over, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_cancel', callback = cancel, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_retry', callback = retry, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_claim_webhooks', callback = claim_webhooks, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_settle_webhook', callback = settle_webhook, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_announced', callback = announced, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'mlserve_sweep', callback = sweep, flags = { 'allow-oom' } })
