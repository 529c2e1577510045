
-- How a job and its inputs end.

local function finish_job(id, status)
  local job = at('job', id)
  local time = now()
  redis.call('HSET', job, 'status', status, 'finished', time)
  redis.call('ZADD', PREFIX .. 'expiring', time + redis.call('HGET', job, 'ttl'), id)
  if redis.call('HGET', job, 'webhook') then redis.call('ZADD', PREFIX .. 'webhooks', time, id) end
  redis.call('DEL', at('begun', id))
  if status ~= 'failed' then
    drop_inputs(id)
  elseif redis.call('EXISTS', at('inputs', id)) == 1 then
    redis.call('ZADD', RETRYABLE, time, id)
  end
  tell(id, 'status', status)
end

local function finish_if_complete(id)
  local counts = redis.call('HMGET', at('job', id), 'total', 'done', 'failed')
  if counts[2] + counts[3] == tonumber(counts[1]) then
    finish_job(id, tonumber(counts[3]) > 0 and 'failed' or 'succeeded')
  end
end

-- A job is no longer the one whose answers are given to whoever submits the same.
local function forget_content(id)
  local fields = redis.call('HMGET', at('job', id), 'model', 'content')
  if fields[2] and redis.call('HGET', at('same', fields[1]), fields[2]) == id then
    redis.call('HDEL', at('same', fields[1]), fields[2])
  end
end

-- The outcome itself, or the error that takes its place where jobs have no room for it.
local function that_fits(caller, outcome)
  if #outcome <= 1024 or not refusal(caller or '', allocated(#outcome), RESULTS_SHARE) then return outcome end
  local words = 'The result has ' .. #outcome - 1 .. ' bytes, and the queue has no room for it. Delete jobs that have ended, then retry this one.'
  return '-' .. cjson.encode({ status = 507, detail = words })
end

-- The second outcome of an input changes nothing.
local function settle(id, index, outcome)
  local job = at('job', id)
  local fields = redis.call('HMGET', job, 'status', 'digest', 'caller')
  if not runs(fields[1]) or redis.call('HEXISTS', at('results', id), index) == 1 then return 0 end
  outcome = that_fits(fields[3], outcome)
  redis.call('HSET', at('results', id), index, outcome)
  local answered = string.sub(outcome, 1, 1) == '+'
  -- The model has changed since the job was submitted: what is asked of that one has other answers.
  if fields[2] and not string.find(outcome, '"model_digest":"' .. fields[2] .. '"', 1, true) then forget_content(id) end
  redis.call('HINCRBY', job, answered and 'done' or 'failed', 1)
  set_begun(id, index, 0)
  -- The input of one that failed stays: it can be tried again.
  local freed = 0
  if answered then
    freed = allocated(redis.call('HSTRLEN', at('inputs', id), index))
    redis.call('HDEL', at('inputs', id), index)
  end
  charge_job(id, allocated(#outcome) - freed, -freed, -1)
  tell(id, 'index', index)
  finish_if_complete(id)
  return 1
end

local function forget_graves(id)
  for _, grave in ipairs(redis.call('LRANGE', at('graves', id), 0, -1)) do redis.call('XDEL', PREFIX .. 'dead', grave) end
  redis.call('DEL', at('graves', id))
end

-- Nothing of a job, or of an upload, stays but its id, where it was accepted.
local function forget(id, time)
  local fields = redis.call('HMGET', at('job', id), 'status', 'once', 'bytes', 'caller')
  if fields[1] then redis.call('ZADD', PREFIX .. 'gone', time + GONE_MS, id) end
  if fields[2] and fields[2] ~= '' then redis.call('DEL', at('once', fields[2])) end
  if fields[3] then charge(fields[4], -fields[3]) end
  forget_graves(id)
  forget_content(id)
  for _, what in ipairs({ 'job', 'inputs', 'results', 'events', 'names', 'begun' }) do redis.call('UNLINK', at(what, id)) end
  for _, what in ipairs({ 'known', 'expiring', 'webhooks', 'retryable' }) do redis.call('ZREM', PREFIX .. what, id) end
end
