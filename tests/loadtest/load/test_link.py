"""A stream that is opened again and again, against a bare echo with real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from loadtest.load import messages
from loadtest.load.certificates import LoadAuthority
from loadtest.load.link import Link
from loadtest.load.opening import open_session
from tests.loadtest.load.endpoint import SINK, Endpoint, eventually
from workers.gateway.failure import HopFailed
from workers.gateway.session import Session
from workers.gateway.tls import client_context
from workers.xmpp.management import Suspended
from workers.xmpp.stanza import Stanza

NAME = "a.load.example"


class Owner:
    """Remembers what the link told; `fails` makes so many attempts fail."""

    def __init__(self, endpoint: Endpoint, authority: LoadAuthority) -> None:
        self.opened: list[str] = []
        self.refused: list[str] = []
        self.lost: list[str] = []
        self.received: list[Stanza] = []
        self.returned: list[Stanza] = []
        self.fails = 0
        self._endpoint = endpoint
        self._secret = authority.dialback_secret
        self._context = client_context(authority.issue(NAME))

    async def open(self, link: Link, resume: Suspended | None) -> Session:
        if self.fails:
            self.fails -= 1
            raise HopFailed("not now", resolved=True)
        settings = self._endpoint.settings()
        return await open_session(settings, NAME, self._context, self._secret, link, resume)

    def link_opened(self, link: Link, seconds: float, how: str) -> None:
        self.opened.append(how)

    def link_refused(self, link: Link, reason: str) -> None:
        self.refused.append(reason)

    def link_lost(self, link: Link, reason: str) -> None:
        self.lost.append(reason)

    def stanzas_received(self, link: Link, stanzas: list[Stanza]) -> None:
        self.received += stanzas

    def stanzas_returned(self, link: Link, stanzas: list[Stanza]) -> None:
        self.returned += stanzas


Start = Callable[..., Awaitable[tuple[Link, Owner]]]


@pytest_asyncio.fixture
async def start(endpoint: Endpoint, authority: LoadAuthority) -> AsyncIterator[Start]:
    links = []

    async def start(*, fails: int = 0, resends: bool = False) -> tuple[Link, Owner]:
        owner = Owner(endpoint, authority)
        owner.fails = fails
        link = Link(owner.open, owner, resends=resends)
        links.append(link)
        link.start()
        async with asyncio.timeout(10):
            await link.wait_open()
        return link, owner

    yield start
    for link in links:
        link.close()
        await link.wait_closed()


def chat(number: int) -> Stanza:
    return messages.message(f"user@{NAME}/x", f"echo@{SINK}", f"r.0.{number}", "hello")


async def test_attempts_go_on_until_one_works(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.load.link.RETRY_FIRST", 0.01)
    link, owner = await start(fails=3)
    assert owner.refused == 3 * ["not now"]
    assert owner.opened == ["connect"]
    assert link.is_open


async def test_what_is_sent_in_one_turn_goes_out_in_order(start: Start) -> None:
    link, owner = await start()
    for number in range(100):
        link.send(chat(number))
    await eventually(lambda: len(owner.received) == 100)
    assert [each.id for each in owner.received] == [f"r.0.{number}" for number in range(100)]


async def test_what_is_acknowledged_is_no_longer_waiting(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.load.link.ASK_INTERVAL", 0.01)
    link, _ = await start()
    link.send(chat(0))
    assert link.waiting == 1
    await eventually(lambda: link.waiting == 0)


async def test_what_a_lost_session_did_not_acknowledge_is_returned(start: Start) -> None:
    link, owner = await start()
    link.send(chat(0))
    await asyncio.sleep(0)
    link.cut()
    await eventually(lambda: owner.opened == ["connect", "reconnect"])
    assert owner.lost == ["cut by the load test"]
    assert [each.id for each in owner.returned] == ["r.0.0"]


async def test_or_it_is_sent_again_with_a_mark(start: Start) -> None:
    link, owner = await start(resends=True)
    link.send(chat(0))
    await asyncio.sleep(0)
    link.cut()
    await eventually(lambda: any(messages.is_marked(each) for each in owner.received))
    assert owner.returned == []


async def test_what_waits_at_the_end_is_returned(start: Start) -> None:
    link, owner = await start()
    link.keeps = False
    link.cut()
    await link.wait_closed()
    link.send(chat(0))
    link.close()
    assert [each.id for each in owner.returned] == ["r.0.0"]
