"""A bare echo on loopback, with the load test's own sink behind it, for remote domains."""

import asyncio
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
import pytest_asyncio

from loadtest.load.certificates import LoadAuthority
from loadtest.load.fleet import Fleet
from loadtest.load.listener import WssListener
from loadtest.load.settings import FleetSettings
from loadtest.sink.bare import BareEcho
from loadtest.sink.behaviour import Behaviour
from workers.gateway.tls import server_context

SINK = "sink.example"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LoadAuthority:
    return LoadAuthority(tmp_path_factory.mktemp("ca"))


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds, at most 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (nobody tells us)
            await asyncio.sleep(0.01)


class Endpoint:
    """An XEP-0468 endpoint that answers by itself; `address` is known after `start`."""

    def __init__(self, authority: LoadAuthority) -> None:
        self.behaviour = Behaviour()
        self.listener = WssListener(
            server_context(authority.issue(SINK)),
            authority.dialback_secret,
            lambda: frozenset((SINK,)),
            BareEcho(self.behaviour).take,
            bidi=True,
        )
        self.address = ("127.0.0.1", 0)

    async def start(self) -> None:
        self.address = ("127.0.0.1", await self.listener.start(self.address))

    def has_connections(self) -> bool:
        """Whether a socket of this process is still bound to the endpoint's port."""
        port = self.address[1]
        return any(each.laddr.port == port for each in psutil.Process().net_connections("tcp"))

    def settings(self, **changed: object) -> FleetSettings:
        values = {
            "url": f"wss://{SINK}:{self.address[1]}/xmpp-s2s",
            "address": self.address,
            "target": SINK,
            "settle": 5.0,
        }
        return FleetSettings(**{**values, **changed})  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def endpoint(authority: LoadAuthority) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(authority)
    await endpoint.start()
    yield endpoint
    endpoint.listener.stop()
    await eventually(lambda: not endpoint.has_connections())
    for _ in range(10):  # turns of the loop, to hear of connections that were reset
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def fleet(authority: LoadAuthority, endpoint: Endpoint) -> AsyncIterator[Fleet]:
    fleet = Fleet(endpoint.settings(), authority, "run")
    await fleet.start()
    yield fleet
    await fleet.stop()
