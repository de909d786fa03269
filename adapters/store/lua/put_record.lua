local place, document = unpack(ARGV)

local revision = redis.call('INCR', key('revision'))
redis.call('HSET', key('records'), place, document)
redis.call('ZADD', key('revisions'), revision, place)
return revision
