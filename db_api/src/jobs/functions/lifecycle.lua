
-- Operations of clients on jobs, and expiry.

-- FCALL mlserve_cancel 1 mlserve:{jobs}:job:<id>: starts no further input of the job. 1, or 0 if it had finished before. Call
-- mlserve_withdraw afterwards.
local function cancel(keys)
  local id = name_from_key(keys[1])
  local fields = redis.call('HMGET', keys[1], 'status', 'total', 'done', 'failed', 'caller')
  if not is_active(fields[1]) then return 0 end
  charge(fields[5], 0, fields[3] + fields[4] - fields[2])
  finish_job(id, 'cancelled')
  return 1
end

-- FCALL mlserve_withdraw 1 mlserve:{jobs}:job:<id>: removes entries of a finished job from the queue. Call it until it returns 0.
-- A worker that starts a remaining entry drops it. 1 if there are more entries.
local function withdraw(keys)
  local id = name_from_key(keys[1])
  local fields = redis.call('HMGET', keys[1], 'status', 'model', 'first', 'last')
  if not fields[1] or is_active(fields[1]) or not fields[3] then return 0 end
  local queue = key_for('queue', fields[2])
  local entries = redis.call('XRANGE', queue, fields[3], fields[4], 'COUNT', CHUNK)
  for _, entry in ipairs(entries) do
    if entry[2][2] == id then ack(queue, entry[1]) end
  end
  if #entries < CHUNK then return 0 end
  redis.call('HSET', keys[1], 'first', '(' .. entries[#entries][1])
  return 1
end

-- FCALL mlserve_retry 1 mlserve:{jobs}:job:<id>: queues failed inputs again, as far as their data is still there. Returns how
-- many there are; -1 if there is nothing to retry. Call mlserve_fill afterwards.
local function retry(keys)
  local id = name_from_key(keys[1])
  local fields = redis.call('HMGET', keys[1], 'status', 'total', 'caller')
  local count = redis.call('HLEN', key_for('inputs', id))
  if fields[1] ~= 'failed' or count == 0 then return -1 end
  redis.call('HINCRBY', keys[1], 'failed', -count)
  redis.call('HSET', keys[1], 'status', 'queued', 'dead', 0)
  charge(fields[3], 0, count)
  -- The webhook is sent again when the job finishes.
  redis.call('HDEL', keys[1], 'finished', 'webhook_tries', 'webhook_error', 'webhook_told', 'first')
  for _, part in ipairs({ 'expiring', 'webhooks', 'retryable' }) do redis.call('ZREM', PREFIX .. part, id) end
  delete_dead_letters(id)
  publish_event(id, 'status', 'queued')
  start_filling(id, tonumber(fields[2]))
  return count
end

-- FCALL mlserve_delete 1 mlserve:{jobs}:job:<id>: deletes a finished job with its results. 1, or 0 if it is not finished.
local function delete(keys)
  local id = name_from_key(keys[1])
  local status = redis.call('HGET', keys[1], 'status')
  if not status or is_active(status) then return 0 end
  delete_job(id, now())
  return 1
end

-- FCALL mlserve_sweep 1 mlserve:{jobs}:expiring count: deletes at most `count` expired jobs. Returns how many it deleted.
local function sweep(keys, args)
  local time = now()
  local ids = redis.call('ZRANGE', keys[1], '-inf', time, 'BYSCORE', 'LIMIT', 0, args[1])
  for _, id in ipairs(ids) do delete_job(id, time) end
  redis.call('ZREMRANGEBYSCORE', PREFIX .. 'gone', '-inf', time)
  redis.call('ZREMRANGEBYRANK', PREFIX .. 'gone', 0, -MAX_GONE - 1)
  -- Without any job the counts are zero, whatever an accounting error has left.
  if redis.call('EXISTS', PREFIX .. 'known', keys[1]) == 0 then redis.call('DEL', COUNTS, CALLERS) end
  return #ids
end

-- FCALL mlserve_adopt 1 mlserve:{jobs}:known offset count: adds counts to jobs of an earlier version. Returns how many jobs it
-- visited.
local function adopt(keys, args)
  local offset = tonumber(args[1])
  local ids = redis.call('ZRANGE', keys[1], offset, offset + args[2] - 1)
  for _, id in ipairs(ids) do
    local fields = redis.call('HMGET', key_for('job', id), 'status', 'bytes', 'model', 'finished')
    if fields[1] and not fields[2] then
      local bytes = JOB_BYTES
      for _, part in ipairs({ 'names', 'results', 'inputs' }) do
        bytes = bytes + (redis.call('MEMORY', 'USAGE', key_for(part, id)) or 0)
      end
      local inputs = redis.call('MEMORY', 'USAGE', key_for('inputs', id)) or 0
      redis.call('HSET', key_for('job', id), 'bytes', bytes, 'input_bytes', inputs)
      charge('', bytes)
      redis.call('SADD', PREFIX .. 'queues', fields[3])
      if fields[1] == 'failed' and inputs > 0 then redis.call('ZADD', RETRYABLE, fields[4], id) end
    end
  end
  return #ids
end
