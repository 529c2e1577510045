#!lua name=mlserve_jobs
-- What happens to jobs, each step as a whole or not at all. web_api loads this library; programs in any language call it
-- with FCALL, as docs/JOBS.md says. Every function takes one key, that of its job or of its model's queue; all keys share
-- the tag {jobs}, and with it a slot of a cluster. Times are Redis's own, in milliseconds.
--
-- The files of this folder are one library, in the order of ../functions.rs. Redis runs nothing else during a call, so no call handles
-- more than PIECE inputs; longer steps are several calls.

local PREFIX = 'mlserve:{jobs}:'
local GROUP = 'workers'
-- Inputs that one call handles at most.
local PIECE = 500
-- What was uploaded for a job that nobody submitted goes after so long.
local UPLOAD_MS = 600000
-- A consumer that holds nothing and has not asked for so long belonged to a process that has ended.
local CONSUMER_MS = 3600 * 1000
-- So long, and so many at most, ids that have expired are told from those that never were.
local GONE_MS = 7 * 24 * 3600 * 1000
local MAX_GONE = 50000

local function at(what, id) return PREFIX .. what .. ':' .. id end

-- The last part of a key: the job's id or the model's name.
local function named(key) return string.match(key, '^mlserve:{jobs}:%l+:(.+)$') end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function tell(id, field, value) redis.call('XADD', at('events', id), '*', field, value) end

local function runs(status) return status == 'queued' or status == 'running' end

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
