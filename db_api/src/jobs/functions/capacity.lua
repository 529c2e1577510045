
-- Memory accounting and admission. The bytes of jobs are counted here because used_memory also includes cached results, which
-- Redis evicts when a job needs the memory. The fields `bytes` and `input_bytes` of a job are its counts: everything, and its
-- inputs. The hash `counts` has the sum over all jobs, and `callers` has the bytes and unfinished inputs per caller. A job of an
-- earlier version has no counts until `adopt`.

local COUNTS, CALLERS = PREFIX .. 'counts', PREFIX .. 'callers'
-- Failed jobs whose inputs are kept for a retry, by the time they finished.
local RETRYABLE = PREFIX .. 'retryable'
-- Overhead of a job beside its inputs, names and results, and of an input beside its data: its entry, its event and its fields.
-- Bytes.
local JOB_BYTES, INPUT_BYTES = 1536, 192
-- Fractions of maxmemory that jobs may use: up to the first a job is accepted, up to the second a result is stored.
local JOBS_SHARE, RESULTS_SHARE = 0.8, 0.9
-- Dynamic threshold (Choudhury and Hahne, 1998): one caller may use at most ALPHA times the free memory. A single caller can
-- therefore use four fifths of the total, and another caller always finds free memory.
local ALPHA = 4
-- Failed jobs whose inputs one call considers for deletion.
local MAX_CANDIDATES = 20

-- Cached: INFO is slow, and maxmemory rarely changes.
local memory = { checked = 0, max = 0 }

local function max_memory()
  local time = now()
  if time - memory.checked > 1000 then
    memory.max = tonumber(string.match(redis.call('INFO', 'memory'), 'maxmemory:(%d+)')) or 0
    memory.checked = time
  end
  return memory.max > 0 and memory.max or math.huge
end

-- Bytes that the allocator reserves for a value: its size classes are a quarter of a power of two apart.
local function allocated(bytes)
  if bytes == 0 then return 0 end
  local _, exponent = math.frexp(bytes + 31)
  local step = math.max(16, 2 ^ (exponent - 3))
  return math.ceil((bytes + 32) / step) * step
end

local function count_of(key, field) return tonumber(redis.call('HGET', key, field) or 0) end

local function add(key, field, number)
  if number ~= 0 and redis.call('HINCRBY', key, field, number) <= 0 then redis.call('HDEL', key, field) end
end

-- Adds to the counts of all jobs and of the caller. The function that calls this updates the counts of the job.
local function charge(caller, bytes, inputs)
  add(COUNTS, 'bytes', bytes)
  if caller and caller ~= '' then
    add(CALLERS, 'bytes ' .. caller, bytes)
    add(CALLERS, 'inputs ' .. caller, inputs or 0)
  end
end

-- Adds to the counts of the job, of all jobs and of the caller.
local function charge_job(id, bytes, input_bytes, inputs)
  local fields = redis.call('HMGET', key_for('job', id), 'bytes', 'input_bytes', 'caller')
  if not fields[1] then return end
  -- An upload of an earlier version was never counted.
  bytes = math.max(bytes, -fields[1])
  redis.call('HSET', key_for('job', id), 'bytes', fields[1] + bytes, 'input_bytes', math.max(0, (fields[2] or 0) + input_bytes))
  charge(fields[3], bytes, inputs)
end

-- The error for a caller that uses `used` and requests more, where all callers use `total` of `max`; nil within the quota.
local function quota_error(unit, used, total, max, requested)
  if used + requested <= ALPHA * (max - total - requested) then return nil end
  local allowed = math.floor(used + math.max(0, (ALPHA * (max - total) - used) / (ALPHA + 1)))
  return string.format('SHARE %s %.0f %.0f %.0f', unit, used, requested, allowed)
end

local function capacity_error(caller, bytes, share)
  local total, max = count_of(COUNTS, 'bytes'), max_memory() * share
  if total + bytes > max then return 'FULL Redis has no room for more jobs' end
  if caller == '' or max == math.huge then return nil end
  return quota_error('bytes', count_of(CALLERS, 'bytes ' .. caller), total, max, bytes)
end

-- Deletes the inputs of a failed job, which are kept only for a retry.
local function drop_inputs(id)
  redis.call('ZREM', RETRYABLE, id)
  redis.call('UNLINK', key_for('inputs', id))
  local bytes = redis.call('HGET', key_for('job', id), 'input_bytes')
  if bytes then charge_job(id, -bytes, -bytes) end
end

-- Deletes inputs of failed jobs until the bytes fit, oldest job first: of any job where the total limit is reached, else of the
-- caller's jobs. Returns the error where they still do not fit.
local function reserve_capacity(caller, bytes)
  local message = capacity_error(caller, bytes, JOBS_SHARE)
  if not message then return nil end
  for _, id in ipairs(redis.call('ZRANGE', RETRYABLE, 0, MAX_CANDIDATES - 1)) do
    if string.sub(message, 1, 4) == 'FULL' or redis.call('HGET', key_for('job', id), 'caller') == caller then
      drop_inputs(id)
      message = capacity_error(caller, bytes, JOBS_SHARE)
      if not message then return nil end
    end
  end
  return message
end

-- FCALL mlserve_health 1 mlserve:{jobs}:counts: inputs in all queues, bytes that jobs use, and bytes that they may use (0: no
-- limit).
local function health(keys)
  local waiting, max = 0, max_memory()
  for _, model in ipairs(redis.call('SMEMBERS', PREFIX .. 'queues')) do
    waiting = waiting + redis.call('XLEN', key_for('queue', model))
  end
  return { waiting, count_of(COUNTS, 'bytes'), max == math.huge and 0 or math.floor(max * JOBS_SHARE) }
end
