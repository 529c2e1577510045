
-- Lua's standard library is not available while Redis loads this file, hence the plain loop.
local function register(functions, flags)
  for i = 1, #functions, 2 do
    redis.register_function({ function_name = 'mlserve_' .. functions[i], callback = functions[i + 1], flags = flags })
  end
end

register({
  'upload', upload, 'upload_known', upload_known, 'upload_names', upload_names, 'submit', submit, 'repeat', repeat_job,
  'announce', announce,
}, {})
-- These functions also run above maxmemory: they free more memory than they use, or they record work that is done.
register({
  'discard', discard_upload, 'fill', fill_job, 'take', receive, 'begin', start, 'finish', finish, 'beat', heartbeat,
  'hand_back', requeue, 'take_over', claim_stale, 'cancel', cancel, 'withdraw', withdraw, 'retry', retry, 'delete', delete,
  'claim_webhooks', claim_webhooks, 'settle_webhook', record_delivery, 'announced', announced, 'sweep', sweep, 'adopt', adopt, 'health', health,
}, { 'allow-oom' })
