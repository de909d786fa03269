local tenant, task, now = unpack(ARGV)
local this = of_task(tenant, task)

if not is_live(this) then
  return {'unknown_task'}
end
for _, number in ipairs(redis.call('ZRANGE', this.numbers, 0, -1)) do
  local fingerprint = redis.call('HGET', this.version(number), 'fingerprint')
  redis.call('DEL', this.history(fingerprint))
  forget_version(this, number)
end
-- Only the counter stays, so that a number never comes back.
local last = redis.call('HGET', this.fields, 'last_version')
redis.call('DEL', this.fields)
redis.call('HSET', this.fields, 'last_version', last)
redis.call('ZREM', key('tasks', tenant), task)
tell('deleted', this, '', now)
return {'ok'}
