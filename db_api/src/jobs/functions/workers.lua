
-- Operations of workers on the queue of a model.

-- FCALL mlserve_take 1 mlserve:{jobs}:queue:<model> consumer count: XREADGROUP without blocking. It also works where the consumer
-- group is missing, which then starts at the first entry, and above maxmemory.
local function receive(keys, args)
  redis.pcall('XGROUP', 'CREATE', keys[1], GROUP, 0, 'MKSTREAM')
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, args[1], 'COUNT', args[2], 'STREAMS', keys[1], '>')
  return read and read[1][2] or {}
end

-- FCALL mlserve_begin 1 mlserve:{jobs}:queue:<model> entry job index [bare]: marks an input as started. Returns its data (empty
-- with `bare`) and the job's kind, version, content type, JSON length and, where the job has one, top_k. Drops the entry and
-- returns nothing where the input needs no processing any more.
local function start(keys, args)
  local entry, id, index, bare = args[1], args[2], args[3], args[4] == 'bare'
  local job = key_for('job', id)
  local fields = redis.call('HMGET', job, 'status', 'kind', 'version', 'content_type', 'json_length', 'top_k')
  local is_there = redis.call('HEXISTS', key_for('inputs', id), index) == 1
  if not is_active(fields[1]) or not is_there or redis.call('HEXISTS', key_for('results', id), index) == 1 then
    ack(keys[1], entry)
    return false
  end
  if fields[1] == 'queued' then
    redis.call('HSET', job, 'status', 'running', 'started', now())
    publish_event(id, 'status', 'running')
  end
  redis.call('HINCRBY', job, 'runs', 1)
  local count = start_count(id, index)
  if count % 2 == 0 then set_start_count(id, index, count + 1) end
  local input = bare and '' or redis.call('HGET', key_for('inputs', id), index)
  return { input, fields[2], fields[3] or '', fields[4] or '', fields[5] or '', fields[6] or nil }
end

-- FCALL mlserve_finish 1 mlserve:{jobs}:queue:<model> entry job index outcome: records an outcome, `+` and a result in JSON, or
-- `-` and an error in JSON. 1 if it counted, 0 if another outcome was first or the job is cancelled.
local function finish(keys, args)
  ack(keys[1], args[1])
  return record_outcome(args[2], args[3], args[4])
end

-- FCALL mlserve_beat 1 mlserve:{jobs}:queue:<model> consumer entry…: heartbeat for entries in progress. Returns how many still
-- belong to this consumer; it leaves entries that another consumer has claimed.
local function heartbeat(keys, args)
  local held = 0
  for i = 2, #args do
    if #redis.call('XPENDING', keys[1], GROUP, args[i], args[i], 1, args[1]) > 0 then
      redis.call('XCLAIM', keys[1], GROUP, args[1], 0, args[i], 'JUSTID')
      held = held + 1
    end
  end
  return held
end

-- FCALL mlserve_hand_back 1 mlserve:{jobs}:queue:<model> consumer entry…: requeues entries that this consumer does not finish.
-- Other consumers get them immediately, and no death is counted. Returns how many it requeued.
local function requeue(keys, args)
  local queue, consumer, count = keys[1], args[1], 0
  for i = 2, #args do
    local entry = args[i]
    if #redis.call('XPENDING', queue, GROUP, entry, entry, 1, consumer) > 0 then
      local found = redis.call('XRANGE', queue, entry, entry)[1]
      ack(queue, entry)
      local id, index = found and found[2][2], found and found[2][4]
      if id and is_active(redis.call('HGET', key_for('job', id), 'status')) then
        redis.call('HSET', key_for('job', id), 'last', redis.call('XADD', queue, '*', unpack(found[2])))
        local deaths = start_count(id, index)
        set_start_count(id, index, deaths - deaths % 2)
        count = count + 1
      end
    end
  end
  return count
end

local function dead_letter(queue, entry, id, index, deaths)
  local reason = 'the worker died ' .. deaths .. ' times while it worked on this input'
  ack(queue, entry)
  if record_outcome(id, index, '-' .. cjson.encode({ status = 500, detail = reason })) == 1 then
    local entry_id = redis.call('XADD', PREFIX .. 'dead', '*', 'job', id, 'index', index, 'model', name_from_key(queue), 'reason', reason)
    redis.call('HINCRBY', key_for('job', id), 'dead', 1)
    redis.call('RPUSH', key_for('graves', id), entry_id)
  end
end

-- Consumers of the queue, each as a table of its fields: name, pending, idle (milliseconds since it read entries or sent a
-- heartbeat).
local function consumers_of(queue)
  local found = {}
  for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', queue, GROUP)) do
    local consumer = {}
    for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
    table.insert(found, consumer)
  end
  return found
end

-- Milliseconds since each consumer of the queue read entries or sent a heartbeat, by the name of the consumer.
local function idle_times(queue)
  local found = {}
  for _, consumer in ipairs(consumers_of(queue)) do found[consumer.name] = consumer.idle end
  return found
end

local function delete_idle_consumers(queue)
  for _, consumer in ipairs(consumers_of(queue)) do
    if consumer.pending == 0 and consumer.idle > CONSUMER_MS then
      redis.call('XGROUP', 'DELCONSUMER', queue, GROUP, consumer.name)
    end
  end
end

-- FCALL mlserve_take_over 1 mlserve:{jobs}:queue:<model> consumer idle_ms max_deaths count: claims entries without a heartbeat
-- for idle_ms, and returns them as entry, job, index, …. A consumer that is idle for as long counts as dead. An input that
-- max_deaths workers had started when they died fails instead.
local function claim_stale(keys, args)
  local queue, consumer, idle, max, count = keys[1], args[1], args[2], tonumber(args[3]), args[4]
  if redis.call('EXISTS', queue) == 0 then return {} end
  local claimed, idle_of = {}, idle_times(queue)
  for _, pending in ipairs(redis.call('XPENDING', queue, GROUP, 'IDLE', idle, '-', '+', count)) do
    local entry, owner = pending[1], pending[2]
    local found = redis.call('XRANGE', queue, entry, entry)[1]
    if not found then
      redis.call('XACK', queue, GROUP, entry)
    else
      local id, index = found[2][2], found[2][4]
      local deaths = start_count(id, index)
      if deaths % 2 == 1 then
        local has_died = owner ~= consumer and (idle_of[owner] or 0) >= tonumber(idle)
        deaths = has_died and deaths + 1 or deaths - 1
        set_start_count(id, index, deaths)
      end
      if deaths / 2 >= max then
        dead_letter(queue, entry, id, index, deaths / 2)
      else
        redis.call('XCLAIM', queue, GROUP, consumer, idle, entry)
        for _, part in ipairs({ entry, id, index }) do table.insert(claimed, part) end
      end
    end
  end
  delete_idle_consumers(queue)
  return claimed
end
