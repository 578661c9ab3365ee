"""The Lua texts that run inside Redis for `store.py`: each proves its right and acts in one step.

A route is a hash {owner, epoch}. Epochs are Redis' clock in microseconds or the old epoch plus one,
whichever is larger: they grow even across a route that was released or a Redis that lost its data.
"""

# KEYS[1] route   ARGV[1] worker   ARGV[2] owner that may be replaced, or ''   ARGV[3] its epoch
# returns {owner, epoch} as it stands afterwards
ACQUIRE = """
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
local owner, epoch = held[1], held[2]
if owner and epoch then
  if owner == ARGV[1] then return {owner, epoch} end
  if owner ~= ARGV[2] or epoch ~= ARGV[3] then return {owner, epoch} end
end
local time = redis.call('TIME')
local fresh = tonumber(time[1]) * 1000000 + tonumber(time[2])
local old = epoch and tonumber(epoch) or 0
if old >= fresh and old < 9000000000000000 then fresh = old + 1 end
epoch = string.format('%.0f', fresh)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', epoch)
return {ARGV[1], epoch}
"""

# KEYS[1] route   ARGV[1] worker   ARGV[2] epoch      returns 1 if released, 0 if not ours
RELEASE = """
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if held[1] == ARGV[1] and held[2] == ARGV[2] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# KEYS[1] workers (sorted set, score: expiry in ms of Redis' clock)   KEYS[2] hash of their info
# ARGV[1] worker   ARGV[2] ttl in ms   ARGV[3] info
# returns {1 if the worker was known before, worker, info, worker, info ...}
HEARTBEAT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)) do
  redis.call('ZREM', KEYS[1], gone)
  redis.call('HDEL', KEYS[2], gone)
end
local expiry = now + tonumber(ARGV[2])
-- Written by a clock that was ahead, before it was set or another server took over: who lives will
-- say so again, who does not must not seem to for as long as the clock was off.
for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. expiry, '+inf')) do
  redis.call('ZADD', KEYS[1], expiry, ahead)
end
redis.call('ZADD', KEYS[1], expiry, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
local reply = {known}
for _, worker in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  reply[#reply + 1] = worker
  reply[#reply + 1] = redis.call('HGET', KEYS[2], worker) or ''
end
return reply
"""

# KEYS[1] workers   KEYS[2] their info, not looked at
# returns the workers whose heartbeat has not run out
LIVE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
"""

# KEYS[1] workers   KEYS[2] their info
# returns {worker, info, worker, info ...} of those whose heartbeat has not run out
WORKERS = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local reply = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
  reply[#reply + 1] = worker
  reply[#reply + 1] = redis.call('HGET', KEYS[2], worker) or ''
end
return reply
"""

# KEYS[1] workers   KEYS[2] their info   ARGV[1] worker      returns 1 if it was known
LEAVE = """
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('ZREM', KEYS[1], ARGV[1])
"""

# A worker's journal is a stream; a sweeper's lease on it says who deals its entries: a worker id or
# "swept". All keys of one worker share its hash tag.

# KEYS[1] journal   KEYS[2] lease   KEYS[3] sealed journal
# returns {newest number there or -1 if it was made now, 1 if others have taken what was there}
OPEN_JOURNAL = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      return {tonumber(string.match(info[at + 1], '^%d+')), 0}
    end
  end
end
redis.call('XADD', KEYS[1], '0-1', 'd', '')
redis.call('XDEL', KEYS[1], '0-1')
return {-1, redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 and 1 or 0}
"""

# KEYS[1] journal   KEYS[2] lease   KEYS[3] sealed journal   ARGV[1] sweeper   ARGV[2] lease in ms
# returns 1 if the sweeper has the lease; the journal is then sealed, its worker cannot add to it
SEAL = """
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] and holder ~= 'swept' then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XLEN', KEYS[3]) == 0 then
  redis.call('RENAME', KEYS[1], KEYS[3])
end
return 1
"""

# KEYS[1] journal   KEYS[2] lease   KEYS[3] sealed journal   KEYS[4] inbox
# ARGV[1] sweeper, or '' for the worker itself   ARGV[2] seconds for which the worker can still
# learn of it   returns 1 if nothing is left
FINISH = """
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for _, at in ipairs({1, 3, 4}) do
  if redis.call('EXISTS', KEYS[at]) == 1 and redis.call('XLEN', KEYS[at]) > 0 then
    if ARGV[1] ~= '' then redis.call('DEL', KEYS[2]) end
    return 0
  end
end
redis.call('DEL', KEYS[1], KEYS[3], KEYS[4])
if ARGV[1] ~= '' then redis.call('SET', KEYS[2], 'swept', 'EX', ARGV[2]) end
return 1
"""
