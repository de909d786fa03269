local tenant, task, digest, fingerprint, size, metadata, now = unpack(ARGV)
local this = of_task(tenant, task)

local number = redis.call('HGET', this.digests, digest)
if number then
  redis.call('HSET', this.version(number), 'renewed_at', now)
else
  number = redis.call('HINCRBY', this.fields, 'last_version', 1)
  if redis.call('HSETNX', this.fields, 'created_at', now) == 1 then
    redis.call('ZADD', key('tasks', tenant), 0, task)
  end
  redis.call('HSET', this.version(number), 'tenant', tenant, 'task', task, 'version', number,
    'digest', digest, 'fingerprint', fingerprint, 'size', size, 'state', 'pending',
    'metadata', metadata, 'created_at', now, 'renewed_at', now)
  redis.call('ZADD', this.numbers, number, number)
  redis.call('HSET', this.digests, digest, number)
  redis.call('ZADD', key('pending', fingerprint), now, this.pending(number))
  redis.call('HINCRBY', key('references'), digest, 1)
  redis.call('HINCRBY', key('stored'), tenant, size)
  tell('registered', this, number, now)
end
return {'ok', redis.call('HGETALL', this.version(number))}
