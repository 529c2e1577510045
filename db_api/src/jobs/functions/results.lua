
-- Outcomes of inputs, and the end of a job.

local function finish_job(id, status)
  local job = key_for('job', id)
  local time = now()
  redis.call('HSET', job, 'status', status, 'finished', time)
  redis.call('ZADD', PREFIX .. 'expiring', time + redis.call('HGET', job, 'ttl'), id)
  if redis.call('HGET', job, 'webhook') then redis.call('ZADD', PREFIX .. 'webhooks', time, id) end
  redis.call('DEL', key_for('begun', id))
  if status ~= 'failed' then
    drop_inputs(id)
  elseif redis.call('EXISTS', key_for('inputs', id)) == 1 then
    redis.call('ZADD', RETRYABLE, time, id)
  end
  publish_event(id, 'status', status)
end

local function finish_if_complete(id)
  local counts = redis.call('HMGET', key_for('job', id), 'total', 'done', 'failed')
  if counts[2] + counts[3] == tonumber(counts[1]) then
    finish_job(id, tonumber(counts[3]) > 0 and 'failed' or 'succeeded')
  end
end

-- Removes a job from the deduplication index, so that its results are not reused.
local function remove_from_dedup_index(id)
  local fields = redis.call('HMGET', key_for('job', id), 'model', 'content')
  if fields[2] and redis.call('HGET', key_for('same', fields[1]), fields[2]) == id then
    redis.call('HDEL', key_for('same', fields[1]), fields[2])
  end
end

-- The outcome itself, or the error that replaces it where there is no memory for it.
local function within_capacity(caller, outcome)
  if #outcome <= 1024 or not capacity_error(caller or '', allocated(#outcome), RESULTS_SHARE) then return outcome end
  local message = 'The result has ' .. #outcome - 1 .. ' bytes, and the queue has no room for it. Delete finished jobs, then retry this one.'
  return '-' .. cjson.encode({ status = 507, detail = message })
end

-- Records the outcome of an input. Only the first outcome counts.
local function record_outcome(id, index, outcome)
  local job = key_for('job', id)
  local fields = redis.call('HMGET', job, 'status', 'digest', 'caller')
  if not is_active(fields[1]) or redis.call('HEXISTS', key_for('results', id), index) == 1 then return 0 end
  outcome = within_capacity(fields[3], outcome)
  redis.call('HSET', key_for('results', id), index, outcome)
  local succeeded = string.sub(outcome, 1, 1) == '+'
  -- The model was replaced since the job was submitted, so its results are not those of the deduplication key.
  if fields[2] and not string.find(outcome, '"model_digest":"' .. fields[2] .. '"', 1, true) then remove_from_dedup_index(id) end
  redis.call('HINCRBY', job, succeeded and 'done' or 'failed', 1)
  set_start_count(id, index, 0)
  -- The input of a failed one is kept for a retry.
  local freed = 0
  if succeeded then
    freed = allocated(redis.call('HSTRLEN', key_for('inputs', id), index))
    redis.call('HDEL', key_for('inputs', id), index)
  end
  charge_job(id, allocated(#outcome) - freed, -freed, -1)
  publish_event(id, 'index', index)
  finish_if_complete(id)
  return 1
end

local function delete_dead_letters(id)
  for _, grave in ipairs(redis.call('LRANGE', key_for('graves', id), 0, -1)) do redis.call('XDEL', PREFIX .. 'dead', grave) end
  redis.call('DEL', key_for('graves', id))
end

-- Deletes a job or an upload. A submitted job leaves a tombstone.
local function delete_job(id, time)
  local fields = redis.call('HMGET', key_for('job', id), 'status', 'once', 'bytes', 'caller')
  if fields[1] then redis.call('ZADD', PREFIX .. 'gone', time + GONE_MS, id) end
  if fields[2] and fields[2] ~= '' then redis.call('DEL', key_for('once', fields[2])) end
  if fields[3] then charge(fields[4], -fields[3]) end
  delete_dead_letters(id)
  remove_from_dedup_index(id)
  for _, part in ipairs({ 'job', 'inputs', 'results', 'events', 'names', 'begun' }) do redis.call('UNLINK', key_for(part, id)) end
  for _, part in ipairs({ 'known', 'expiring', 'webhooks', 'retryable' }) do redis.call('ZREM', PREFIX .. part, id) end
end
