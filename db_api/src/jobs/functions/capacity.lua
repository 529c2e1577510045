
-- Accounting of memory. What jobs hold is counted in bytes, because used_memory also counts cached results, which Redis evicts when
-- a job needs the room. A job has the counts in its fields `bytes` (all of it) and `input_bytes` (its inputs); `counts` has the sum of
-- all jobs, and `callers` the bytes and the unfinished inputs of each caller. A job of an earlier version has no counts until `adopt`.

local COUNTS, CALLERS = PREFIX .. 'counts', PREFIX .. 'callers'
-- Failed jobs whose inputs are kept for a retry, by the time of their end.
local RETRYABLE = PREFIX .. 'retryable'
-- Bytes of a job beside its inputs, names and results; and of an input beside its own: its entry, its event and its fields.
local JOB_BYTES, INPUT_BYTES = 1536, 192
-- Of maxmemory: what jobs may hold when another is accepted, and when a result comes.
local JOBS_SHARE, RESULTS_SHARE = 0.8, 0.9
-- Dynamic threshold (Choudhury and Hahne, 1998): one caller may hold at most so many times what is free. So a single caller gets four
-- fifths of everything, and there is always room for another.
local ALPHA = 4
-- Failed jobs that one call looks at for inputs to delete.
local MAX_LOOKED_AT = 20

-- INFO takes long, and maxmemory rarely changes.
local memory = { checked = 0, most = 0 }

local function max_memory()
  local time = now()
  if time - memory.checked > 1000 then
    memory.most = tonumber(string.match(redis.call('INFO', 'memory'), 'maxmemory:(%d+)')) or 0
    memory.checked = time
  end
  return memory.most > 0 and memory.most or math.huge
end

-- What a value of so many bytes takes: the allocator's sizes are a quarter of a power of two apart.
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

-- Counts for all jobs and for the caller, whose fields of the job the function that calls this changes.
local function charge(caller, bytes, inputs)
  add(COUNTS, 'bytes', bytes)
  if caller and caller ~= '' then
    add(CALLERS, 'bytes ' .. caller, bytes)
    add(CALLERS, 'inputs ' .. caller, inputs or 0)
  end
end

-- The same, and the job's own counts.
local function charge_job(id, bytes, input_bytes, inputs)
  local fields = redis.call('HMGET', at('job', id), 'bytes', 'input_bytes', 'caller')
  if not fields[1] then return end
  -- What an earlier version has uploaded was never counted.
  bytes = math.max(bytes, -fields[1])
  redis.call('HSET', at('job', id), 'bytes', fields[1] + bytes, 'input_bytes', math.max(0, (fields[2] or 0) + input_bytes))
  charge(fields[3], bytes, inputs)
end

-- The refusal of so many more by a caller who holds some, where all hold `total` of `most`; nothing where there is room.
local function over_share(what, held, total, most, more)
  if held + more <= ALPHA * (most - total - more) then return nil end
  local allowed = math.floor(held + math.max(0, (ALPHA * (most - total) - held) / (ALPHA + 1)))
  return string.format('SHARE %s %.0f %.0f %.0f', what, held, more, allowed)
end

local function refusal(caller, bytes, share)
  local total, most = count_of(COUNTS, 'bytes'), max_memory() * share
  if total + bytes > most then return 'FULL Redis has no room for more jobs' end
  if caller == '' or most == math.huge then return nil end
  return over_share('bytes', count_of(CALLERS, 'bytes ' .. caller), total, most, bytes)
end

-- The inputs of a failed job, which it has only for a retry.
local function drop_inputs(id)
  redis.call('ZREM', RETRYABLE, id)
  redis.call('UNLINK', at('inputs', id))
  local bytes = redis.call('HGET', at('job', id), 'input_bytes')
  if bytes then charge_job(id, -bytes, -bytes) end
end

-- Inputs of failed jobs make room, the oldest first: of all jobs where all are short of room, else of the caller's.
local function make_room(caller, bytes)
  local words = refusal(caller, bytes, JOBS_SHARE)
  if not words then return nil end
  for _, id in ipairs(redis.call('ZRANGE', RETRYABLE, 0, MAX_LOOKED_AT - 1)) do
    if string.sub(words, 1, 4) == 'FULL' or redis.call('HGET', at('job', id), 'caller') == caller then
      drop_inputs(id)
      words = refusal(caller, bytes, JOBS_SHARE)
      if not words then return nil end
    end
  end
  return words
end

-- FCALL mlserve_health 1 mlserve:{jobs}:counts: inputs in all queues, bytes that jobs hold, and bytes that they may hold (0: no limit).
local function health(keys)
  local waiting, most = 0, max_memory()
  for _, model in ipairs(redis.call('SMEMBERS', PREFIX .. 'queues')) do
    waiting = waiting + redis.call('XLEN', at('queue', model))
  end
  return { waiting, count_of(COUNTS, 'bytes'), most == math.huge and 0 or math.floor(most * JOBS_SHARE) }
end
