local tenant, task, digest, fingerprint, size, metadata, now = unpack(ARGV)
local this = of_task(tenant, task)

local number = redis.call('HGET', this.digests, digest)
if number then
  redis.call('HSET', this.version(number), 'renewed_at', now)
else
  number = redis.call('HINCRBY', this.fields, 'last_version', 1)
  redis.call('ZADD', key('names'), 0, this.name)
  if redis.call('HSETNX', this.fields, 'created_at', now) == 1 then
    redis.call('ZADD', key('tasks', tenant), 0, task)
  end
  add_version(this, {'tenant', tenant, 'task', task, 'version', number, 'digest', digest,
    'fingerprint', fingerprint, 'size', size, 'state', 'pending', 'metadata', metadata,
    'created_at', now, 'renewed_at', now})
  tell('registered', this, number, now)
end
return {'ok', redis.call('HGETALL', this.version(number))}
