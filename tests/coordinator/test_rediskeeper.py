import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import rediskeeper
from coordinator.embedded import EmbeddedProblem, EmbeddedRedis
from coordinator.rediskeeper import RedisKeeper


class Scene:
    def __init__(self, embedded: EmbeddedRedis) -> None:
        self.timers: list[tuple[float, Callable[[], Any]]] = []
        self.exited = asyncio.Event()
        self.keeper = RedisKeeper(
            embedded, lambda delay, action: self.timers.append((delay, action)), self.exited.set
        )


async def test_a_server_that_ended_is_started_again_and_watched(
    redis: EmbeddedRedis, tmp_path: Path
):
    scene = Scene(redis)
    scene.keeper.watch()
    for _ in range(2):
        assert redis.process
        redis.process.send(signal.SIGKILL)
        await scene.exited.wait()
        scene.exited.clear()
        assert scene.keeper.restart_soon() == "the embedded redis-server ended"
        await scene.timers[-1][1]()
    assert [delay for delay, _ in scene.timers] == [
        0.1,
        rediskeeper.FORGIVEN_AFTER,
        0.2,
        rediskeeper.FORGIVEN_AFTER,
    ]
    scene.timers[-1][1]()  # a good run: delays begin anew
    scene.keeper.restart_soon()
    assert scene.timers[-1][0] == 0.1
    scene.keeper.close()


async def test_one_that_cannot_start_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    embedded = EmbeddedRedis(tmp_path)

    async def fail() -> None:
        raise EmbeddedProblem("no disk")

    monkeypatch.setattr(embedded, "start", fail)
    scene = Scene(embedded)
    scene.keeper.restart_soon()
    await scene.timers[-1][1]()
    assert scene.exited.is_set()
    scene.keeper.close()
