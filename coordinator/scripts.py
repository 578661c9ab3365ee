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
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
local reply = {known}
for _, worker in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  reply[#reply + 1] = worker
  reply[#reply + 1] = redis.call('HGET', KEYS[2], worker) or ''
end
return reply
"""

# KEYS[1] workers   returns the workers whose heartbeat has not run out
LIVE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
"""

# KEYS[1] workers   KEYS[2] their info   ARGV[1] worker      returns 1 if it was known
LEAVE = """
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('ZREM', KEYS[1], ARGV[1])
"""
