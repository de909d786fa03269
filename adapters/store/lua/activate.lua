local tenant, task, number, expected, now = unpack(ARGV)
local this = of_task(tenant, task)

local state, fingerprint = unpack(redis.call('HMGET', this.version(number), 'state', 'fingerprint'))
if not state then
  return missing(this)
end
if state ~= 'ready' then
  return {'version_not_ready', state}
end
local active = active_number(this, fingerprint)
if active == number then
  return {'ok'}
end
if active ~= expected then
  return {'pointer_moved', active}
end
redis.call('RPUSH', this.history(fingerprint), number)
redis.call('LTRIM', this.history(fingerprint), -kept_activations, -1)
point_to(this, fingerprint, number)
tell('activated', this, number, now)
return {'ok'}
