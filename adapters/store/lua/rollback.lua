local tenant, task, fingerprint, expected, now = unpack(ARGV)
local this = of_task(tenant, task)

if not is_live(this) then
  return {'unknown_task'}
end
local active = active_number(this, fingerprint)
if active ~= expected then
  return {'pointer_moved', active}
end
local history = redis.call('LRANGE', this.history(fingerprint), 0, -1)
local top = #history
while top > 0 and history[top] == expected do
  top = top - 1
end
if top == 0 then
  return {'nothing_to_roll_back_to'}
end
redis.call('LTRIM', this.history(fingerprint), 0, top - 1)
local pointer = point_to(this, fingerprint, history[top])
tell('activated', this, history[top], now)
return {'ok', pointer}
