"""What the tests of listeners, connectors, sources and discovery share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.workers.gateway.component_bench import ComponentScene
from tests.workers.gateway.discovery_scene import DiscoveryScene
from tests.workers.gateway.gateway_bench import GatewayScene
from tests.workers.gateway.hop_bench import HopScene
from workers.gateway import component_link, patience, session


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(session, "CLOSE_TIMEOUT", 0.3)
    monkeypatch.setattr(component_link, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(component_link, "OWNER_INTERVAL", 0.01)


@pytest_asyncio.fixture
async def gateway(tmp_path: Path, short_times: None) -> AsyncIterator[GatewayScene]:
    """Not started yet: the test says how."""
    scene = GatewayScene(tmp_path)
    yield scene
    await scene.close()


@pytest_asyncio.fixture
async def component(tmp_path: Path, short_times: None) -> AsyncIterator[ComponentScene]:
    """Attached by components; not started yet."""
    scene = ComponentScene(tmp_path)
    yield scene
    await scene.close()


@pytest.fixture
def short_hop_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(session, "CLOSE_TIMEOUT", 0.2)


@pytest_asyncio.fixture
async def hops(short_hop_times: None) -> AsyncIterator[HopScene]:
    """Hops to a far server; neither serves nor has begun yet."""
    scene = HopScene()
    yield scene
    await scene.close()


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[DiscoveryScene]:
    """What the tests of discovery share; other tests have scenes of their own."""
    scene = DiscoveryScene(tmp_path)
    await scene.start()
    yield scene
    await scene.close()
