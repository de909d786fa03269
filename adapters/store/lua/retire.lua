local tenant, task, number, now = unpack(ARGV)
local this = of_task(tenant, task)

local fingerprint = redis.call('HGET', this.version(number), 'fingerprint')
if not fingerprint then
  return missing(this)
end
if active_number(this, fingerprint) == number then
  return {'version_in_use'}
end
redis.call('LREM', this.history(fingerprint), 0, number)
forget_version(this, number)
tell('retired', this, number, now)
return {'ok'}
