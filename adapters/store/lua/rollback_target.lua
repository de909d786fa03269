local tenant, task, fingerprint, expected = unpack(ARGV)
local this = of_task(tenant, task)

local place, found = activation_before(this, fingerprint, expected)
if not place then
  return found
end
return {'ok', pointer_to(this, found)}
