"""Real parts for the control plane's tests: a redis-server on a unix socket, a configuration."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.config import Admin, Config, Gateway, Local, WebSocket
from coordinator.embedded import EmbeddedRedis


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
