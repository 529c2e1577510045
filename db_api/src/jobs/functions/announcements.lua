
-- Models that workers of others' making serve.

-- FCALL mlserve_announce 1 mlserve:{jobs}:models name json: there is a worker for this model, and this is what the model is. To
-- be said again every few seconds.
local function announce(keys, args)
  redis.call('HSET', keys[1], args[1], args[2])
  redis.call('ZADD', PREFIX .. 'announced', now(), args[1])
  return redis.status_reply('OK')
end

-- FCALL mlserve_announced 1 mlserve:{jobs}:models forget_after_ms: each model that was announced, as name, json, milliseconds since.
local function announced(keys, args)
  local time = now()
  local models = {}
  local seen = redis.call('ZRANGE', PREFIX .. 'announced', 0, -1, 'WITHSCORES')
  for place = 1, #seen, 2 do
    local name, ago = seen[place], time - seen[place + 1]
    if ago > tonumber(args[1]) then
      redis.call('ZREM', PREFIX .. 'announced', name)
      redis.call('HDEL', keys[1], name)
    else
      for _, part in ipairs({ name, redis.call('HGET', keys[1], name) or '', ago }) do table.insert(models, part) end
    end
  end
  return models
end
