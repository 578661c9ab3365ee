import re

import pytest

from coordinator import scripts
from coordinator.embedded import EmbeddedRedis
from coordinator.store import Store

TEXTS = {name: text for name, text in vars(scripts).items() if name.isupper()}


@pytest.mark.parametrize("name", TEXTS)
def test_a_script_names_every_key_it_touches(name: str):
    """Redis Cluster runs a script on the node of its KEYS: any other key is an error there."""
    calls = re.findall(r"redis\.call\('(\w+)',\s*(?:'STREAM',\s*)?([^,)]+)", TEXTS[name])
    assert calls
    assert all(key.startswith("KEYS[") for _, key in calls)


@pytest.mark.parametrize("name", TEXTS)
async def test_a_script_is_accepted_by_redis(name: str, redis: EmbeddedRedis, tmp_path):
    store = Store(f"unix://{tmp_path}/run/redis.sock")
    await store.connect()
    assert await store._client.script_load(TEXTS[name])
    await store.close()


async def test_an_epoch_passes_a_predecessor_from_the_future(redis: EmbeddedRedis, tmp_path):
    store = Store(f"unix://{tmp_path}/run/redis.sock")
    await store.connect()
    await store._client.hset("r", mapping={"owner": "gw1/w1.a", "epoch": "8000000000000000"})
    arguments = ("gw1/w2.a", "gw1/w1.a", "8000000000000000")
    assert await store._client.eval(scripts.ACQUIRE, 1, "r", *arguments) == [
        b"gw1/w2.a",
        b"8000000000000001",
    ]
    await store.close()


async def test_a_heartbeat_from_the_future_does_not_outlive_its_worker(
    redis: EmbeddedRedis, tmp_path
):
    """Redis' clock was set back, or another server with another clock took over."""
    store = Store(f"unix://{tmp_path}/run/redis.sock")
    await store.connect()
    await store.heartbeat("gw1/w1.a", 60.0, {})
    await store._client.zadd("{fedgate}:workers", {"gw1/w1.a": 9e15})
    await store.heartbeat("gw1/w2.a", 60.0, {})
    one, two = await store._client.zmscore("{fedgate}:workers", ["gw1/w1.a", "gw1/w2.a"])
    assert one == two
    await store.close()
