-- The names of all keys, and what several operations do to them. It stands before each script;
-- docs/store.md draws the layout. Whatever is not an argument comes back as a Lua number or string.

local root = KEYS[1]

local function key(...)
  return root .. ':' .. table.concat({...}, ':')
end

-- The keys of one task.
local function of_task(tenant, task)
  local name = tenant .. ':' .. task
  return {
    tenant = tenant,
    task = task,
    name = name,
    fields = key('task', name),
    numbers = key('versions', name),
    digests = key('digests', name),
    version = function(number) return key('version', name, number) end,
    history = function(fingerprint) return key('history', name, fingerprint) end,
    pending = function(number) return name .. ':' .. number end,
  }
end

local function is_live(this)
  return redis.call('HEXISTS', this.fields, 'created_at') == 1
end

-- Why a version was not found.
local function missing(this)
  return {is_live(this) and 'unknown_version' or 'unknown_task'}
end

-- The number of the active version as text, '' where there is none.
local function active_number(this, fingerprint)
  local active = redis.call('HGET', this.fields, 'active:' .. fingerprint)
  return active and string.match(active, '^%d+') or ''
end

-- What says a version's number and digest.
local function pointer_to(this, number)
  return number .. ':' .. redis.call('HGET', this.version(number), 'digest')
end

-- Make a version the active one; returns the pointer, which says its number and digest.
local function point_to(this, fingerprint, number)
  local pointer = pointer_to(this, number)
  redis.call('HSET', this.fields, 'active:' .. fingerprint, pointer)
  return pointer
end

-- The last activation of another version than `expected`, the active one: its place in the history
-- and its number; where there is none nil, and why.
local function activation_before(this, fingerprint, expected)
  if not is_live(this) then
    return nil, {'unknown_task'}
  end
  local active = active_number(this, fingerprint)
  if active ~= expected then
    return nil, {'pointer_moved', active}
  end
  local history = redis.call('LRANGE', this.history(fingerprint), 0, -1)
  local place = #history
  while place > 0 and history[place] == expected do
    place = place - 1
  end
  if place == 0 then
    return nil, {'nothing_to_roll_back_to'}
  end
  return place, history[place]
end

-- Add a version from its fields: names and values in turn.
local function add_version(this, flat)
  local fields = {}
  for at = 1, #flat, 2 do
    fields[flat[at]] = flat[at + 1]
  end
  local number = fields.version
  redis.call('HSET', this.version(number), unpack(flat))
  redis.call('ZADD', this.numbers, number, number)
  redis.call('HSET', this.digests, fields.digest, number)
  redis.call('HINCRBY', key('references'), fields.digest, 1)
  redis.call('HINCRBY', key('stored'), this.tenant, fields.size)
  if fields.state == 'pending' then
    redis.call('ZADD', key('pending', fields.fingerprint), fields.created_at, this.pending(number))
  end
end

local function forget_version(this, number)
  local record = this.version(number)
  local digest, fingerprint, size =
    unpack(redis.call('HMGET', record, 'digest', 'fingerprint', 'size'))
  redis.call('DEL', record)
  redis.call('ZREM', this.numbers, number)
  redis.call('HDEL', this.digests, digest)
  redis.call('ZREM', key('pending', fingerprint), this.pending(number))
  if redis.call('HINCRBY', key('stored'), this.tenant, -size) == 0 then
    redis.call('HDEL', key('stored'), this.tenant)
  end
  if redis.call('HINCRBY', key('references'), digest, -1) == 0 then
    redis.call('HDEL', key('references'), digest)
  end
end

-- Forget all of a task but its counter, so that a number never comes back.
local function clear(this)
  for _, number in ipairs(redis.call('ZRANGE', this.numbers, 0, -1)) do
    local fingerprint = redis.call('HGET', this.version(number), 'fingerprint')
    redis.call('DEL', this.history(fingerprint))
    forget_version(this, number)
  end
  local last = redis.call('HGET', this.fields, 'last_version')
  redis.call('DEL', this.fields)
  if last then
    redis.call('HSET', this.fields, 'last_version', last)
  end
  redis.call('ZREM', key('tasks', this.tenant), this.task)
end

-- Number an event and tell everybody who waits for one.
local function tell(kind, this, number, now)
  local sequence = redis.call('INCR', key('sequence'))
  redis.call('XADD', key('changes'), 'MAXLEN', '~', kept_changes, sequence .. '-0',
    'kind', kind, 'tenant', this.tenant, 'task', this.task, 'version', number, 'at', now)
end
