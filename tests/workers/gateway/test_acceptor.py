"""Accepting: only with a place; without descriptors nobody is lost, and no loop is busy."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from coordinator.config import Limits
from tests.workers.gateway.session_bench import on_quiet_loop, until
from workers.gateway import acceptor
from workers.gateway.acceptor import Acceptor
from workers.gateway.admission import Admission, Entry
from workers.gateway.channel import Channel
from workers.gateway.refusals import Refusals


class Guest:
    """A connection that was let in; leaves when it is closed."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.reason: str | None = None
        self.channel = Channel(self)
        entry.expect(self)

    def turn_away(self, reason: str) -> None:
        self.channel.abort(reason)

    def connected(self) -> None: ...

    def tls_established(self) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None:
        self.channel.close()

    def write_paused(self) -> None: ...

    def write_resumed(self) -> None: ...

    def closed(self, reason: str | None) -> None:
        self.reason = reason
        self.entry.leave()


class Scene:
    """An acceptor on a port of its own."""

    def __init__(self, **limits: Any) -> None:
        loop = asyncio.get_running_loop()
        self.guests: list[Guest] = []
        self.refusals = Refusals(loop.time)
        self.admission = Admission(lambda: Limits(**limits), self.refusals, loop.time)
        self.acceptor = Acceptor(self.admission, self._make)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        self.acceptor.start([self.listening])
        self._clients: list[socket.socket] = []

    def _make(self, entry: Entry) -> Channel:
        self.guests.append(Guest(entry))
        return self.guests[-1].channel

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address)
        client.setblocking(False)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        self.acceptor.stop()
        for client in self._clients:
            client.close()
        await until(lambda: not self.admission._entries)


def is_open(client: socket.socket) -> bool:
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@on_quiet_loop
async def test_who_has_no_place_is_hung_up_on_at_once() -> None:
    scene = Scene(unauthenticated_per_address=2)
    clients = [scene.connect() for _ in range(20)]
    await until(lambda: sum(map(is_open, clients)) == 2)
    assert len(scene.guests) == 2
    clients[0].close()
    await until(lambda: len(scene.admission.strangers) == 1)
    late = scene.connect()
    await until(lambda: len(scene.guests) == 3)
    assert is_open(late)
    await scene.close()


@on_quiet_loop
async def test_when_all_places_are_taken_the_others_wait_for_theirs() -> None:
    scene = Scene(unauthenticated=2)
    clients = [scene.connect() for _ in range(5)]
    await until(lambda: len(scene.guests) == 2)
    await asyncio.sleep(2.5 * acceptor.FULL_INTERVAL)
    assert len(scene.guests) == 2 and all(map(is_open, clients))
    assert 2 <= scene.refusals.counts["strangers"] <= 5  # not once in every turn
    scene.guests[0].entry.prove()
    clients[1].close()
    await until(lambda: len(scene.guests) == 4)
    scene.admission.is_short_of = "memory"
    clients[2].close()
    await until(lambda: scene.refusals.counts["memory"] > 0)
    assert len(scene.guests) == 4 and is_open(clients[4])
    scene.admission.is_short_of = ""
    await until(lambda: len(scene.guests) == 5)
    await scene.close()


@on_quiet_loop
async def test_after_stop_nobody_is_let_in() -> None:
    scene = Scene()
    scene.acceptor.stop()
    with contextlib.suppress(ConnectionRefusedError):
        scene.connect()
    await asyncio.sleep(0)
    assert not scene.guests
    await scene.close()


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Until the end of the block this process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@on_quiet_loop
async def test_without_descriptors_strangers_make_room_and_nobody_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    honest = [scene.connect() for _ in range(3)]
    await until(lambda: len(scene.guests) == 3)
    scene.guests[0].entry.prove()
    late = scene.connect()
    loop = asyncio.get_running_loop()
    began = loop.time()
    with no_more_descriptors():
        await until(lambda: scene.refusals.counts["descriptors"] == 2)
        await asyncio.sleep(acceptor.ACCEPT_RETRY / 2)
    # The listening socket is readable all the time, yet it is not looked at in every turn.
    assert len(caplog.messages) <= 2 + (loop.time() - began) / acceptor.ACCEPT_RETRY
    await until(lambda: len(scene.guests) == 4)
    assert is_open(late) and is_open(honest[0])
    assert [guest.reason for guest in scene.guests[1:3]] == [
        "the worker is short of descriptors"
    ] * 2
    await scene.close()
