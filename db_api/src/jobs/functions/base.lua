#!lua name=mlserve_jobs
-- Function library of the job queue: each step of a job is one function, which Redis runs atomically. web_api loads the library.
-- Programs in any language call it with FCALL, as docs/JOBS.md describes. Every function takes one key, that of its job or of its
-- model's queue. All keys share the hash tag {jobs}, and with it a slot of a cluster. Times are those of Redis, in milliseconds.
--
-- The files of this folder are one library, in the order of ../functions.rs. Redis runs nothing else during a call, so a call
-- handles at most CHUNK inputs; longer steps take several calls.

local PREFIX = 'mlserve:{jobs}:'
local GROUP = 'workers'
-- Inputs that one call handles at most.
local CHUNK = 500
-- Lifetime of an upload that is not submitted.
local UPLOAD_MS = 600000
-- A consumer without pending entries that is idle for this long belongs to a process that has ended.
local CONSUMER_MS = 3600 * 1000
-- Lifetime and maximum number of the tombstones that distinguish deleted jobs from unknown ids.
local GONE_MS = 7 * 24 * 3600 * 1000
local MAX_GONE = 50000

local function key_for(part, id) return PREFIX .. part .. ':' .. id end

-- The last part of a key: the id of a job or the name of a model.
local function name_from_key(key) return string.match(key, '^mlserve:{jobs}:%l+:(.+)$') end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function publish_event(id, field, value) redis.call('XADD', key_for('events', id), '*', field, value) end

local function is_active(status) return status == 'queued' or status == 'running' end

local function ack(queue, entry)
  redis.call('XACK', queue, GROUP, entry)
  redis.call('XDEL', queue, entry)
end

-- Starts of an input, from a hash by index: twice the number of workers that died while they processed it, plus one while a
-- worker processes it.
local function start_count(id, index) return tonumber(redis.call('HGET', key_for('begun', id), index) or 0) end

local function set_start_count(id, index, count)
  if count > 0 then
    redis.call('HSET', key_for('begun', id), index, count)
  else
    redis.call('HDEL', key_for('begun', id), index)
  end
end
