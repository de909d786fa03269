local tenant, task, number, state, now = unpack(ARGV)
local this = of_task(tenant, task)
local record = this.version(number)

local before, fingerprint = unpack(redis.call('HMGET', record, 'state', 'fingerprint'))
if not before then
  return missing(this)
end
if before ~= state and before ~= 'ready' then
  redis.call('HSET', record, 'state', state)
  redis.call('ZREM', key('pending', fingerprint), this.pending(number))
  tell(state, this, number, now)
end
return {'ok'}
