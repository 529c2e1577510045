
-- How workers take inputs, and what they say of them.

-- FCALL mlserve_take 1 mlserve:{jobs}:queue:<model> consumer count: XREADGROUP without waiting, also where the group is missing (it begins
-- with what came before it), and above maxmemory.
local function take(keys, args)
  redis.pcall('XGROUP', 'CREATE', keys[1], GROUP, 0, 'MKSTREAM')
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, args[1], 'COUNT', args[2], 'STREAMS', keys[1], '>')
  return read and read[1][2] or {}
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
  if redis.call('EXISTS', queue) == 0 then return {} end
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
