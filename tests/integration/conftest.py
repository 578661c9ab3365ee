"""The real servers of the integration tests, started once, and the people on them."""

from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.stage import Stage
from loadtest.stage.users import User
from tests.integration import resources_scene
from tests.integration.identity_scene import KEYS, IdentityScene, PlayedPeer
from tests.integration.rude_peer import RudePeer
from tests.integration.spec_scene import Scene

_HERE = Path(__file__).parent
_stages: list[Stage] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Servers, users and tests share one event loop; every test here may take its time."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.servers)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the logs of a stage on which a test failed, and say where they are."""
    report = yield
    if report.failed:
        for stage in _stages:
            stage.keep = True
            report.sections.append(("stage", f"logs in {stage.logs}"))
            for gateway in stage.gateways:
                report.sections.append((gateway.name, gateway.process.log_tail(40)))
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage() -> AsyncIterator[Stage]:
    """Prosody and ejabberd, each attached to its gateway, and a third Prosody without one."""
    async with Stage() as stage:
        _stages.append(stage)
        try:
            await stage.attach_gateways()
            yield stage
        finally:
            _stages.remove(stage)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def native_stage() -> AsyncIterator[Stage]:
    """The same three servers, federating natively: no gateway anywhere."""
    async with Stage() as stage:
        _stages.append(stage)
        try:
            yield stage
        finally:
            _stages.remove(stage)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def component_stage() -> AsyncIterator[Stage]:
    """Two of them again, each with the other's domains as external components."""
    async with Stage(attachment="component", escalus=False) as stage:
        _stages.append(stage)
        try:
            await stage.attach_gateways()
            await stage.wait_components()
            yield stage
        finally:
            _stages.remove(stage)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scene() -> AsyncIterator[Scene]:
    """A gateway between played servers only."""
    scene = Scene()
    try:
        await scene.start()
        yield scene
    finally:
        await scene.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rude(scene: Scene) -> AsyncIterator[RudePeer]:
    """A remote server that the scene's gateway dials."""
    peer = RudePeer(scene.authority, scene.addresses.of(103))
    await peer.start()
    yield peer
    await peer.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def keys(scene: IdentityScene) -> AsyncIterator[PlayedPeer]:
    """The authoritative server of keys.example, which answers what `verdict` says."""
    peer = PlayedPeer(KEYS, scene.address(KEYS), scene.issue(KEYS))
    await peer.start()
    yield peer
    await peer.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def victim(stage: Stage) -> AsyncIterator[resources_scene.Victim]:
    """A gateway of the stage that has little of everything."""
    gateway = stage.capulet_gateway
    before = dict(gateway.options["limits"])
    gateway.configure("gateway", workers=1)
    gateway.configure("limits", **resources_scene.LIMITS)
    await gateway.restart()
    victim = resources_scene.Victim(stage)
    await victim.find_worker()
    yield victim
    gateway.configure("gateway", workers=2, max_worker_rss=None)
    gateway.options["limits"] = before
    await gateway.restart()


@pytest_asyncio.fixture(loop_scope="session")
async def guest(victim: resources_scene.Victim) -> AsyncIterator[XmppProxyPeer]:
    """A remote domain whose certificate is good."""
    made = resources_scene.peer(XmppProxyPeer, victim, resources_scene.GUEST)
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def _whole_again(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """What a failed test left stopped must not fail the next."""
    yield
    if "stage" in request.fixturenames:
        await request.getfixturevalue("stage").repair()


@pytest_asyncio.fixture(loop_scope="session")
async def juliet(stage: Stage) -> AsyncIterator[User]:
    """A user of the Prosody behind its gateway, freshly logged in."""
    user = await stage.login("juliet@capulet.example/balcony")
    yield user
    await user.logout()


@pytest_asyncio.fixture(loop_scope="session")
async def romeo(stage: Stage) -> AsyncIterator[User]:
    """A user of the ejabberd behind its gateway, freshly logged in."""
    user = await stage.login("romeo@montague.example/orchard")
    yield user
    await user.logout()


@pytest_asyncio.fixture(loop_scope="session")
async def friar(stage: Stage) -> AsyncIterator[User]:
    """A user of the Prosody that has no gateway, freshly logged in."""
    user = await stage.login("friar@escalus.example/cell")
    yield user
    await user.logout()
