"""A bare echo on loopback, with the load test's own sink behind it."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from loadtest.load.certificates import LoadAuthority
from loadtest.load.listener import WssListener
from loadtest.load.settings import FleetSettings
from loadtest.sink.bare import BareEcho
from loadtest.sink.behaviour import Behaviour
from workers.gateway.tls import server_context

SINK = "sink.example"


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds, at most 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (nobody tells us)
            await asyncio.sleep(0.01)


def sockets() -> set[str]:
    """The sockets that this process has, by their inodes."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return {each for each in found if each.startswith("socket:")}


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
        self._before = sockets()

    async def start(self) -> None:
        self.address = ("127.0.0.1", await self.listener.start(self.address))

    async def stop(self) -> None:
        """Return when no connection is left, on either side."""
        self.listener.stop()
        await eventually(lambda: sockets() <= self._before)

    def settings(self, **changed: object) -> FleetSettings:
        values = {
            "url": f"wss://{SINK}:{self.address[1]}/xmpp-s2s",
            "address": self.address,
            "target": SINK,
            "settle": 5.0,
        }
        return FleetSettings(**{**values, **changed})  # type: ignore[arg-type]
