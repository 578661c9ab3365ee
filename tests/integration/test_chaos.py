"""A short selection of `make chaos`: every promise holds under load while things break."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtest.chaos.run import Run
from loadtest.chaos.scene import Scene

RATE = 200.0  # stanzas per second each way: the test machine has other things to do
SECONDS = 2.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scene() -> AsyncIterator[Scene]:
    """Prosody and ejabberd with their gateways, and components that send to each other."""
    async with Scene() as scene:
        yield scene


@pytest.mark.parametrize(
    "fault", ["worker-killed", "coordinator-killed", "redis-emptied", "restarted"]
)
async def test_every_promise_is_kept(scene: Scene, fault: str) -> None:
    run = Run(scene, fault, "suite", rate=RATE, seconds=SECONDS, report=lambda what, traffic: None)
    outcome = await run.play()
    assert not outcome.broken, outcome
    assert outcome.stanzas > 2 * RATE * SECONDS
