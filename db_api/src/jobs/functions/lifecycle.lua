
-- What clients do with jobs, and what time does.

-- FCALL mlserve_cancel 1 mlserve:{jobs}:job:<id>: what has not begun does not begin. 1, or 0 if it had ended before. Then
-- mlserve_withdraw.
local function cancel(keys)
  local id = named(keys[1])
  local fields = redis.call('HMGET', keys[1], 'status', 'total', 'done', 'failed', 'caller')
  if not runs(fields[1]) then return 0 end
  charge(fields[5], 0, fields[3] + fields[4] - fields[2])
  finish_job(id, 'cancelled')
  return 1
end

-- FCALL mlserve_withdraw 1 mlserve:{jobs}:job:<id>: takes entries of a job that has ended out of the queue, until it says 0; those that
-- stay are dropped when they are begun. Whether there are more.
local function withdraw(keys)
  local id = named(keys[1])
  local fields = redis.call('HMGET', keys[1], 'status', 'model', 'first', 'last')
  if not fields[1] or runs(fields[1]) or not fields[3] then return 0 end
  local queue = at('queue', fields[2])
  local entries = redis.call('XRANGE', queue, fields[3], fields[4], 'COUNT', PIECE)
  for _, entry in ipairs(entries) do
    if entry[2][2] == id then drop(queue, entry[1]) end
  end
  if #entries < PIECE then return 0 end
  redis.call('HSET', keys[1], 'first', '(' .. entries[#entries][1])
  return 1
end

-- FCALL mlserve_retry 1 mlserve:{jobs}:job:<id>: what has failed is asked once more, as far as its inputs are still there. How many those
-- are; -1 if there is nothing to try again. Then mlserve_fill.
local function retry(keys)
  local id = named(keys[1])
  local fields = redis.call('HMGET', keys[1], 'status', 'total', 'caller')
  local count = redis.call('HLEN', at('inputs', id))
  if fields[1] ~= 'failed' or count == 0 then return -1 end
  redis.call('HINCRBY', keys[1], 'failed', -count)
  redis.call('HSET', keys[1], 'status', 'queued', 'dead', 0)
  charge(fields[3], 0, count)
  -- Its next end is told anew.
  redis.call('HDEL', keys[1], 'finished', 'webhook_tries', 'webhook_error', 'webhook_told', 'first')
  for _, what in ipairs({ 'expiring', 'webhooks', 'retryable' }) do redis.call('ZREM', PREFIX .. what, id) end
  forget_graves(id)
  tell(id, 'status', 'queued')
  begin_to_fill(id, tonumber(fields[2]))
  return count
end

-- FCALL mlserve_delete 1 mlserve:{jobs}:job:<id>: forgets a job that has ended, with its results. 1, or 0 if it has not ended.
local function delete(keys)
  local id = named(keys[1])
  local status = redis.call('HGET', keys[1], 'status')
  if not status or runs(status) then return 0 end
  forget(id, now())
  return 1
end

-- FCALL mlserve_sweep 1 mlserve:{jobs}:expiring count: forgets so many of the jobs whose time is over. How many those were.
local function sweep(keys, args)
  local time = now()
  local ids = redis.call('ZRANGE', keys[1], '-inf', time, 'BYSCORE', 'LIMIT', 0, args[1])
  for _, id in ipairs(ids) do forget(id, time) end
  redis.call('ZREMRANGEBYSCORE', PREFIX .. 'gone', '-inf', time)
  redis.call('ZREMRANGEBYRANK', PREFIX .. 'gone', 0, -MAX_GONE - 1)
  -- Where there is no job, jobs hold nothing, whatever was counted.
  if redis.call('EXISTS', PREFIX .. 'known', keys[1]) == 0 then redis.call('DEL', COUNTS, CALLERS) end
  return #ids
end

-- FCALL mlserve_adopt 1 mlserve:{jobs}:known offset count: counts what jobs of an earlier version hold. How many it looked at.
local function adopt(keys, args)
  local offset = tonumber(args[1])
  local ids = redis.call('ZRANGE', keys[1], offset, offset + args[2] - 1)
  for _, id in ipairs(ids) do
    local fields = redis.call('HMGET', at('job', id), 'status', 'bytes', 'model', 'finished')
    if fields[1] and not fields[2] then
      local bytes = JOB_BYTES
      for _, what in ipairs({ 'names', 'results', 'inputs' }) do
        bytes = bytes + (redis.call('MEMORY', 'USAGE', at(what, id)) or 0)
      end
      local inputs = redis.call('MEMORY', 'USAGE', at('inputs', id)) or 0
      redis.call('HSET', at('job', id), 'bytes', bytes, 'input_bytes', inputs)
      charge('', bytes)
      redis.call('SADD', PREFIX .. 'queues', fields[3])
      if fields[1] == 'failed' and inputs > 0 then redis.call('ZADD', RETRYABLE, fields[4], id) end
    end
  end
  return #ids
end
