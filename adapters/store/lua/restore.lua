-- `versions` and `histories` are JSON whose numbers are texts: cjson would round them.
local tenant, task, created_at, last_version, versions, histories, now = unpack(ARGV)
local this = of_task(tenant, task)

clear(this)
redis.call('HSET', this.fields, 'last_version', last_version)
redis.call('ZADD', key('names'), 0, this.name)
if created_at ~= '' then
  redis.call('HSET', this.fields, 'created_at', created_at)
  redis.call('ZADD', key('tasks', tenant), 0, task)
end
for _, flat in ipairs(cjson.decode(versions)) do
  add_version(this, flat)
end
for fingerprint, numbers in pairs(cjson.decode(histories)) do
  redis.call('RPUSH', this.history(fingerprint), unpack(numbers))
  point_to(this, fingerprint, numbers[#numbers])
end
tell(created_at == '' and 'deleted' or 'registered', this, '', now)
return {'ok'}
