local fingerprint, limit = unpack(ARGV)

local records = {}
for _, name in ipairs(
  redis.call('ZRANGEBYSCORE', key('pending', fingerprint), '-inf', '+inf', 'LIMIT', 0, limit)
) do
  table.insert(records, redis.call('HGETALL', key('version', name)))
end
return {'ok', records}
