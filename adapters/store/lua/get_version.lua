local tenant, task, number = unpack(ARGV)
local this = of_task(tenant, task)

local record = redis.call('HGETALL', this.version(number))
if #record == 0 then
  return missing(this)
end
return {'ok', record}
