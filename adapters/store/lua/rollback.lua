local tenant, task, fingerprint, expected, now = unpack(ARGV)
local this = of_task(tenant, task)

local place, found = activation_before(this, fingerprint, expected)
if not place then
  return found
end
redis.call('LTRIM', this.history(fingerprint), 0, place - 1)
local pointer = point_to(this, fingerprint, found)
tell('activated', this, found, now)
return {'ok', pointer}
