local tenant, task, after, limit = unpack(ARGV)
local this = of_task(tenant, task)

if not is_live(this) then
  return {'unknown_task'}
end
local records = {}
for _, number in ipairs(
  redis.call('ZRANGEBYSCORE', this.numbers, '(' .. after, '+inf', 'LIMIT', 0, limit)
) do
  table.insert(records, redis.call('HGETALL', this.version(number)))
end
return {'ok', records}
