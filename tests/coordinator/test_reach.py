from dataclasses import replace

import pytest

from coordinator.config import Config, Local, Redis
from coordinator.reach import reachable_address


@pytest.mark.parametrize(
    ("listen", "redis", "reached"),
    [
        ("10.0.0.1:5271", "", "10.0.0.1:5271"),
        ("gw1.internal:5271", "redis://10.0.0.9", "gw1.internal:5271"),
        ("0.0.0.0:5271", "redis://127.0.0.1:6379", "127.0.0.1:5271"),
        ("[::]:5271", "redis+sentinel://user:pw@127.0.0.1:1,127.0.0.2:2/m", "127.0.0.1:5271"),
        ("0.0.0.0:5271", "", ""),
        ("0.0.0.0:5271", "unix:///run/redis.sock", ""),
        ("0.0.0.0:5271", "redis://nowhere.invalid", ""),
    ],
)
def test_a_wildcard_is_reached_where_redis_is_reached_from(listen, redis, reached):
    config = replace(Config(), local=Local(listen=listen), redis=Redis(url=redis))
    assert reachable_address(config) == reached
