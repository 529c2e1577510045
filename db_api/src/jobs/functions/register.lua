
-- Nothing of Lua's own library is there while this is loaded, hence the plain loop.
local function register(functions, flags)
  for place = 1, #functions, 2 do
    redis.register_function({ function_name = 'mlserve_' .. functions[place], callback = functions[place + 1], flags = flags })
  end
end

register({
  'upload', upload, 'upload_known', upload_known, 'upload_names', upload_names, 'submit', submit, 'repeat', repeat_job,
  'announce', announce,
}, {})
-- These free more than they take, and work that was done must have a place: also above maxmemory.
register({
  'discard', discard_upload, 'fill', fill_job, 'take', take, 'begin', begin, 'finish', finish, 'beat', beat, 'hand_back', hand_back,
  'take_over', take_over, 'cancel', cancel, 'withdraw', withdraw, 'retry', retry, 'delete', delete, 'claim_webhooks', claim_webhooks,
  'settle_webhook', settle_webhook, 'announced', announced, 'sweep', sweep, 'adopt', adopt, 'health', health,
}, { 'allow-oom' })
