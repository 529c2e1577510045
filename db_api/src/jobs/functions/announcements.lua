
-- Announcements of models by external workers.

-- FCALL mlserve_announce 1 mlserve:{jobs}:models name json: announces that a worker serves this model, with the model's metadata.
-- A worker repeats it every few seconds.
local function announce(keys, args)
  redis.call('HSET', keys[1], args[1], args[2])
  redis.call('ZADD', PREFIX .. 'announced', now(), args[1])
  return redis.status_reply('OK')
end

-- FCALL mlserve_announced 1 mlserve:{jobs}:models forget_after_ms: each announced model, as name, json, milliseconds since the
-- last announcement. Deletes models whose announcement is older.
local function announced(keys, args)
  local time = now()
  local models = {}
  local seen = redis.call('ZRANGE', PREFIX .. 'announced', 0, -1, 'WITHSCORES')
  for i = 1, #seen, 2 do
    local name, ago = seen[i], time - seen[i + 1]
    if ago > tonumber(args[1]) then
      redis.call('ZREM', PREFIX .. 'announced', name)
      redis.call('HDEL', keys[1], name)
    else
      for _, part in ipairs({ name, redis.call('HGET', keys[1], name) or '', ago }) do table.insert(models, part) end
    end
  end
  return models
end
