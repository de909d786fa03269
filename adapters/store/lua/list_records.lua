local revision, limit = unpack(ARGV)

local found = redis.call('ZRANGEBYSCORE', key('revisions'), '(' .. revision, '+inf', 'WITHSCORES',
  'LIMIT', 0, limit)
local records = {}
for at = 1, #found, 2 do
  table.insert(records, {found[at], redis.call('HGET', key('records'), found[at]), found[at + 1]})
end
return records
