"""A component's handshake and its reconnection, with a server played by the test."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from loadtest.stage.component import Component
from loadtest.stage.processes import StageError, eventually


class FakeServer:
    """Accepts XEP-0114 streams; `greeting` follows the handshake's answer in the same write."""

    def __init__(self) -> None:
        self.port = 0
        self.greeting = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.readuntil(b"to='c.example'>")
        writer.write(b"<stream:stream xmlns='jabber:component:accept' id='i&1' from='c.example'>")
        digest = hashlib.sha1(b"i&1secret").hexdigest().encode()
        given = await reader.readuntil(b"</handshake>")
        good = given == b"<handshake>%b</handshake>" % digest
        answer = b"<handshake/>" + self.greeting
        writer.write(answer if good else b"<stream:error><not-authorized/></stream:error>")
        await reader.read()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    listener = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = listener.sockets[0].getsockname()[1]
    yield fake
    listener.close()
    for writer in fake.writers:
        writer.close()


async def test_what_follows_the_handshake_is_not_lost(server: FakeServer) -> None:
    server.greeting = b"<message/>"
    got: list[bytes] = []
    component = Component("c.example", "127.0.0.1", "secret", got.append, port=server.port)
    await component.connect()
    assert component.is_open
    assert got == [b"<message/>"]
    server.writers[0].write(b"<iq/>")
    await eventually(lambda: got == [b"<message/>", b"<iq/>"], within=10, what="the iq")
    component.close()
    assert not component.is_open


async def test_a_wrong_secret_is_told(server: FakeServer) -> None:
    component = Component("c.example", "127.0.0.1", "wrong", lambda data: None, port=server.port)
    with pytest.raises(StageError, match="not-authorized"):
        await component.connect(within=0.5)
    component.close()


async def test_a_lost_connection_is_told_and_can_be_made_again(server: FakeServer) -> None:
    lost: list[bool] = []
    component = Component(
        "c.example",
        "127.0.0.1",
        "secret",
        lambda data: None,
        lambda: lost.append(True),
        port=server.port,
    )
    await component.connect()
    server.writers[0].close()
    await eventually(lambda: lost, within=10, what="the loss")
    assert not component.is_open
    await component.connect()
    assert component.is_open
    component.close()
    assert lost == [True]
