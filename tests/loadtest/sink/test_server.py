"""The sink on its TCP side: two of them, each the other's gateway."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from loadtest.load import messages
from loadtest.load.certificates import LoadAuthority
from loadtest.sink.behaviour import Behaviour
from loadtest.sink.server import Sink
from tests.loadtest.load.endpoint import eventually, sockets
from workers.gateway.tls import client_context, server_context
from workers.xmpp.stanza import Stanza

ONE, OTHER = "one.example", "other.example"


class Ear(Behaviour):
    """Hears, and says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Stanza] = []

    def answer(self, stanza: Stanza) -> list[Stanza]:
        self.heard.append(stanza)
        return []


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Scene:
    def __init__(self, authority: LoadAuthority) -> None:
        self.ear = Ear()
        self.ports = (free_port(), free_port())
        self.echo = self._sink(ONE, Behaviour(), authority, self.ports[1])
        self.asker = self._sink(OTHER, self.ear, authority, self.ports[0])

    def _sink(
        self, domain: str, behaviour: Behaviour, authority: LoadAuthority, gateway: int
    ) -> Sink:
        pair = authority.issue(domain)
        return Sink(
            domain,
            behaviour,
            server=server_context(pair),
            client=client_context(pair),
            gateway=("127.0.0.1", gateway),
        )

    async def heard(self, count: int) -> list[Stanza]:
        await eventually(lambda: len(self.ear.heard) >= count)
        return self.ear.heard


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    before = sockets()
    scene = Scene(LoadAuthority(tmp_path))
    await scene.echo.start(("127.0.0.1", scene.ports[0]))
    await scene.asker.start(("127.0.0.1", scene.ports[1]))
    yield scene
    await scene.asker.stop()
    await scene.echo.stop()
    await eventually(lambda: sockets() <= before)


def question(number: int) -> Stanza:
    return messages.message(f"a@{OTHER}/x", f"echo@{ONE}", f"r.0.{number}", "hello")


async def test_what_is_asked_is_answered_in_order(scene: Scene) -> None:
    for number in range(50):
        scene.asker.send(question(number))
    answers = await scene.heard(50)
    assert [each.id for each in answers] == [f"r.0.{number}" for number in range(50)]
    assert scene.echo.streams == (1, 1)


async def test_what_was_on_its_way_when_streams_broke_comes_marked(scene: Scene) -> None:
    scene.asker.send(question(0))
    await scene.heard(1)
    scene.asker.send(question(1))
    scene.asker.cut()
    answers = await scene.heard(2)
    assert answers[-1].id == "r.0.1"
    assert scene.asker.lost["cut by the load test"] == 1
