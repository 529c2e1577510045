
-- Webhooks of finished jobs.

-- FCALL mlserve_claim_webhooks 1 mlserve:{jobs}:webhooks lease_ms count: claims jobs whose webhooks are due, and returns them as
-- id, expiry, …. Until the expiry no other process gets them; a claim without a recorded attempt is due again then.
local function claim_webhooks(keys, args)
  local time = now()
  local expires, claimed = time + args[1], {}
  for _, id in ipairs(redis.call('ZRANGE', keys[1], '-inf', time, 'BYSCORE', 'LIMIT', 0, args[2])) do
    if redis.call('EXISTS', key_for('job', id)) == 1 then
      redis.call('ZADD', keys[1], expires, id)
      -- Counted before the attempt, so that an attempt that kills its process is counted as well.
      redis.call('HINCRBY', key_for('job', id), 'webhook_tries', 1)
      table.insert(claimed, id)
      table.insert(claimed, string.format('%.0f', expires))
    else
      redis.call('ZREM', keys[1], id)
    end
  end
  return claimed
end

-- FCALL mlserve_settle_webhook 1 mlserve:{jobs}:webhooks id expiry status error delay_ms: records a delivery attempt of the claim
-- with this expiry. `status` is `delivered`, `failed`, or empty for another attempt after delay_ms milliseconds. 1 if it counted, 0
-- if the claim had expired.
local function record_delivery(keys, args)
  local id, status, reason = args[1], args[3], args[4]
  local job = key_for('job', id)
  if tonumber(redis.call('ZSCORE', keys[1], id) or -1) ~= tonumber(args[2]) then return 0 end
  if reason == '' then
    redis.call('HDEL', job, 'webhook_error')
  else
    redis.call('HSET', job, 'webhook_error', reason)
  end
  if status == '' then
    redis.call('ZADD', keys[1], now() + args[5], id)
  else
    redis.call('HSET', job, 'webhook_told', status)
    redis.call('ZREM', keys[1], id)
  end
  return 1
end
