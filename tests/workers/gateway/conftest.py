"""What the tests of listeners, connectors and sources share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.workers.gateway.gateway_bench import GatewayScene
from workers.gateway import patience, session


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(session, "CLOSE_TIMEOUT", 0.3)


@pytest_asyncio.fixture
async def gateway(tmp_path: Path, short_times: None) -> AsyncIterator[GatewayScene]:
    """Not started yet: the test says how."""
    scene = GatewayScene(tmp_path)
    yield scene
    await scene.close()
