local tenant = ARGV[1]

return {'ok', redis.call('ZCARD', key('tasks', tenant)), redis.call('HGET', key('stored'), tenant) or 0}
