"""Real parts for the control plane's tests: a configuration, a redis-server, coordinators."""

import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import Admin, Config, Gateway, Local, WebSocket
from coordinator.embedded import EmbeddedRedis
from coordinator.journal_writer import JournalWriter
from coordinator.processes import read_name
from coordinator.store import Store, redis_url
from tests.coordinator.journal_writer_scene import Told, writer_of
from tests.coordinator.supervisor_scene import Coordinator, Start


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A gateway on free ports with its state in tmp_path."""
    gateway = Gateway(
        domains=("a.example",), name="gw1", state_dir=str(tmp_path), drain_timeout=5.0
    )
    return replace(
        Config(),
        gateway=gateway,
        websocket=WebSocket(listen=("127.0.0.1:0",)),
        local=Local(listen="127.0.0.1:0", dns="127.0.0.1:0"),
        admin=Admin(listen=str(tmp_path / "admin.sock")),
    )


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A redis-server of its own, where `redis_url(config)` looks for it."""
    (tmp_path / "run").mkdir(mode=0o700, exist_ok=True)
    server = EmbeddedRedis(tmp_path)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def store(config: Config, redis: EmbeddedRedis) -> AsyncIterator[Store]:
    """Connected to `redis`."""
    opened = Store(redis_url(config))
    await opened.connect()
    yield opened
    await opened.close()


@pytest.fixture
async def writer(store: Store) -> AsyncIterator[JournalWriter]:
    """Keeps the journal of a worker in `store`."""
    async with writer_of(store) as opened:
        yield opened


@pytest.fixture
def told() -> Told:
    """What the records were told that `writer` keeps."""
    return Told()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts coordinators in tmp_path; whatever of them is left at the end is killed."""
    started: list[Coordinator] = []

    async def starter(**options: Any) -> Coordinator:
        started.append(await Coordinator.start(tmp_path, **options))
        return started[-1]

    yield starter
    for coordinator in started:
        await coordinator.die()
    for path in (tmp_path / "run").glob("*.json"):
        if left := read_name(path):
            left.send(signal.SIGKILL)
    for coordinator in started:
        await coordinator.ends()
