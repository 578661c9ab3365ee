"""Workers and Redis that die, hang or grow are replaced, and accounts closed."""

import asyncio
import signal
import time
from pathlib import Path

from tests.coordinator.supervisor_scene import Start


async def test_a_killed_worker_is_replaced_and_its_account_closed(start: Start):
    fedgate = await start()
    await fedgate.says("w1 works")
    (before,) = await fedgate.get("/api/workers")
    fedgate.worker("w1").send(signal.SIGKILL)
    await fedgate.says("ended, killed by SIGKILL")
    await fedgate.says("w1 works")
    (after,) = await fedgate.get("/api/workers")
    assert after["id"] != before["id"] and after["restarts"] == 1
    outbound = (await fedgate.get("/api/ledger"))["outbound"]
    assert (outbound["accepted"], outbound["returned"], outbound["in_flight"]) == (6, 2, 3)
    assert outbound["dropped"] == {"worker-lost": 1}
    (route,) = await fedgate.get("/api/routes")
    assert route["owner"] == after["id"]
    assert "SIGKILL" in (await fedgate.get("/api/errors"))[-1]["text"]


async def test_a_killed_redis_is_replaced_with_its_data(start: Start):
    fedgate = await start()
    await fedgate.says("w1 works")
    routes = await fedgate.get("/api/routes")
    redis = fedgate.redis()
    redis.send(signal.SIGKILL)
    await fedgate.says("the embedded redis-server ended")
    async with asyncio.timeout(10):
        while (await fedgate.get("/readyz"))["degraded"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    assert fedgate.redis() != redis
    assert await fedgate.get("/api/routes") == routes


async def test_a_worker_that_hangs_is_killed_and_replaced(start: Start):
    fedgate = await start(gateway="hang_timeout = 2")
    await fedgate.says("is ready, pid")  # one that starts has a deadline of its own
    fedgate.worker("w1").send(signal.SIGSTOP)
    await fedgate.says("has reported nothing for 2 s: killed")
    await fedgate.says("ended, killed by SIGKILL")
    await fedgate.says("w1 works")
    assert any("nothing for 2 s" in e["text"] for e in await fedgate.get("/api/errors"))


async def test_a_worker_that_loops_for_ever_is_killed(tmp_path: Path, start: Start):
    (tmp_path / "behaviour").write_text("loop")
    fedgate = await start(gateway="hang_timeout = 1")
    await fedgate.says("is ready, pid")
    assert (await fedgate.order("reload")).ok
    await fedgate.says(" s: killed")
    await fedgate.says("ended, killed by SIGKILL")


async def test_a_worker_that_grew_too_large_is_replaced(start: Start, tmp_path: Path):
    (tmp_path / "behaviour").write_text("fat")
    fedgate = await start()
    await fedgate.says("w1 works")
    (tmp_path / "behaviour").write_text("")
    await fedgate.says("uses 2000000000 bytes of memory, gateway.max_worker_rss is 1073741824")
    await fedgate.says("is ready, pid")
    await fedgate.says("w1 told to drain")
    await fedgate.until("/api/workers", lambda all: [w["rss_bytes"] for w in all] == [1000])


async def test_a_redis_that_stands_still_holds_up_no_replacement(start: Start):
    fedgate = await start()
    await fedgate.says("ready, listening on")
    redis = fedgate.redis()
    redis.send(signal.SIGSTOP)
    try:
        await fedgate.until("/readyz", lambda answer: "redis" in answer["degraded"])
        fedgate.worker("w1").send(signal.SIGKILL)
        before = time.monotonic()
        await fedgate.says("is ready, pid")
        assert time.monotonic() - before < 5
    finally:
        redis.send(signal.SIGCONT)
