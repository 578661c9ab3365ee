"""The proxy passes bytes both ways until a connection is stalled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from loadtest.stage.addresses import Addresses
from loadtest.stage.processes import eventually
from loadtest.stage.proxy import Proxy

PORT = 4443
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Town:
    def __init__(self, near: str, far: str) -> None:
        self.proxy = Proxy(near, far, PORT)
        self.accepted: list[Streams] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[Streams, Streams]:
        """Both ends of a connection through the proxy."""
        count = len(self.accepted)
        near = await asyncio.open_connection(self.proxy.address, PORT)
        self.writers.append(near[1])
        await eventually(lambda: len(self.accepted) > count, within=10, what="accepted")
        await eventually(lambda: len(self.proxy.pipes) > count, within=10, what="piped")
        return near, self.accepted[-1]


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    addresses = Addresses()
    town = Town(addresses.of(101), addresses.of(102))

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        town.accepted.append((reader, writer))
        town.writers.append(writer)

    server = await asyncio.start_server(accept, addresses.of(102), PORT)
    await town.proxy.start()
    yield town
    await town.proxy.stop()
    for writer in town.writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    server.close()
    addresses.release()


async def test_bytes_and_ends_pass(town: Town) -> None:
    near, far = await town.connect()
    near[1].write(b"ping")
    assert await far[0].readexactly(4) == b"ping"
    far[1].write(b"pong")
    assert await near[0].readexactly(4) == b"pong"
    near[1].close()
    assert await far[0].read() == b""


async def test_a_pipe_is_found_by_the_name_its_upstream_sees(town: Town) -> None:
    _, far = await town.connect()
    address, port = far[1].get_extra_info("peername")
    assert [pipe.upstream_name for pipe in town.proxy.pipes] == [f"{address}:{port}"]


async def test_a_stalled_connection_stays_open_and_silent(town: Town) -> None:
    near, far = await town.connect()
    other_near, other_far = await town.connect()
    (pipe, _) = town.proxy.pipes
    pipe.stall()
    near[1].write(b"x")
    other_near[1].write(b"y")
    assert await other_far[0].readexactly(1) == b"y"
    near[1].close()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(far[0].read(1), 0.1)
    town.proxy.cut_stalled()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(far[0].read(1), 10)


async def test_nobody_behind_it_ends_the_connection(town: Town) -> None:
    town.proxy.upstream = "127.255.255.1"
    reader, writer = await asyncio.open_connection(town.proxy.address, PORT)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    town.writers.append(writer)
