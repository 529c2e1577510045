
-- Webhooks of jobs that have ended.

-- FCALL mlserve_claim_webhooks 1 mlserve:{jobs}:webhooks lease_ms count: jobs whose webhooks are due, as id, until, …. Until then
-- they are the caller's; if he has not settled one by then, it is due again.
local function claim_webhooks(keys, args)
  local time = now()
  local till, claimed = time + args[1], {}
  for _, id in ipairs(redis.call('ZRANGE', keys[1], '-inf', time, 'BYSCORE', 'LIMIT', 0, args[2])) do
    if redis.call('EXISTS', at('job', id)) == 1 then
      redis.call('ZADD', keys[1], till, id)
      -- Counted before it is tried, so that a try which ends its process is seen.
      redis.call('HINCRBY', at('job', id), 'webhook_tries', 1)
      table.insert(claimed, id)
      table.insert(claimed, string.format('%.0f', till))
    else
      redis.call('ZREM', keys[1], id)
    end
  end
  return claimed
end

-- FCALL mlserve_settle_webhook 1 mlserve:{jobs}:webhooks id until told error again_ms: `told` is `delivered`, `failed`, or empty
-- for another try in so many milliseconds. 1 if it counted, 0 if the claim was over.
local function settle_webhook(keys, args)
  local id, told, reason = args[1], args[3], args[4]
  local job = at('job', id)
  if tonumber(redis.call('ZSCORE', keys[1], id) or -1) ~= tonumber(args[2]) then return 0 end
  if reason == '' then
    redis.call('HDEL', job, 'webhook_error')
  else
    redis.call('HSET', job, 'webhook_error', reason)
  end
  if told == '' then
    redis.call('ZADD', keys[1], now() + args[5], id)
  else
    redis.call('HSET', job, 'webhook_told', told)
    redis.call('ZREM', keys[1], id)
  end
  return 1
end
