local after, limit = unpack(ARGV)

local first = after == '' and '-' or '(' .. after
local dumps = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', key('names'), first, '+', 'LIMIT', 0, limit)) do
  local this = of_task(string.match(name, '^([^:]*):(.*)$'))
  local fields = redis.call('HGETALL', this.fields)
  local versions, histories = {}, {}
  for _, number in ipairs(redis.call('ZRANGE', this.numbers, 0, -1)) do
    table.insert(versions, redis.call('HGETALL', this.version(number)))
  end
  for at = 1, #fields, 2 do
    local fingerprint = string.match(fields[at], '^active:(.*)$')
    if fingerprint then
      table.insert(histories, {fingerprint, redis.call('LRANGE', this.history(fingerprint), 0, -1)})
    end
  end
  table.insert(dumps, {this.tenant, this.task, fields, versions, histories})
end
return dumps
