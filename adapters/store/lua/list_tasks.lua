local tenant, after, limit = unpack(ARGV)

local first = after == '' and '-' or '(' .. after
local tasks = {}
for _, task in ipairs(
  redis.call('ZRANGEBYLEX', key('tasks', tenant), first, '+', 'LIMIT', 0, limit)
) do
  table.insert(tasks, {task, redis.call('HGETALL', of_task(tenant, task).fields)})
end
return {'ok', tasks}
