local tenant, task, now = unpack(ARGV)
local this = of_task(tenant, task)

if not is_live(this) then
  return {'unknown_task'}
end
clear(this)
tell('deleted', this, '', now)
return {'ok'}
