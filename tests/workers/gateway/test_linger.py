"""How long a connection that we have closed is waited for: as long as the peer takes our bytes."""

import asyncio
import socket
from typing import cast

import pytest

from tests.workers.gateway.channels import tcp_pair
from tests.workers.gateway.session_bench import until
from tests.workers.gateway.wire_bench import on_both_loops
from workers.gateway import linger as linger_module
from workers.gateway.linger import Linger


class Lingering(asyncio.Protocol):
    """A bare connection that we have closed with `size` bytes still to be sent."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stuck: list[bool] = []
        self.is_lost = False
        self.linger: Linger

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        transport.write(bytes(self.size))
        transport.write_eof()
        loop = asyncio.get_running_loop()
        self.linger = Linger(loop, transport, lambda: self.stuck.append(self.is_lost))

    def connection_lost(self, exc: Exception | None) -> None:
        self.linger.stop()
        self.is_lost = True


async def lingering(size: int) -> tuple[Lingering, socket.socket]:
    peer, accepted = tcp_pair()
    accepted.setblocking(False)
    made = Lingering(size)
    await asyncio.get_running_loop().create_connection(lambda: made, sock=accepted)
    return made, peer


MUCH = 30_000_000


@on_both_loops
async def test_who_stands_still_is_cut_and_that_is_told_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linger_module, "LINGER_TIMEOUT", 0.05)
    made, peer = await lingering(MUCH)
    await until(lambda: made.is_lost)
    assert made.stuck == [False]
    peer.close()


@on_both_loops
async def test_who_has_taken_all_and_does_not_end_is_left_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linger_module, "LINGER_TIMEOUT", 0.05)
    made, peer = await lingering(1000)
    await until(lambda: made.is_lost)
    assert made.stuck == []
    assert peer.recv(2000) == bytes(1000) and peer.recv(1) == b""
    peer.close()


@on_both_loops
async def test_who_takes_a_little_at_a_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger_module, "LINGER_TIMEOUT", 600.0)  # we look when it has taken some
    made, peer = await lingering(MUCH)
    left = made.transport.get_write_buffer_size()
    for _ in range(3):
        while made.transport.get_write_buffer_size() == left:
            await asyncio.get_running_loop().sock_recv(peer, 1_000_000)
        left = made.transport.get_write_buffer_size()
        made.linger._look()
        assert not made.transport.is_closing() and made.stuck == []
    made.linger._look()  # and now nothing
    await until(lambda: made.is_lost)
    assert made.stuck == [False]
    peer.close()


@on_both_loops
async def test_even_who_takes_a_little_at_a_time_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linger_module, "LINGER_TIMEOUT", 0.05)
    monkeypatch.setattr(linger_module, "LONGEST_LINGER", 0.0)
    made, peer = await lingering(MUCH)
    loop, taken = asyncio.get_running_loop(), 0
    while data := await loop.sock_recv(peer, 10_000):
        taken += len(data)
        await asyncio.sleep(0.001)
    assert 0 < taken < MUCH
    await until(lambda: made.is_lost)
    assert made.stuck == [False]
    peer.close()


@pytest.mark.parametrize("size", [0, MUCH])
@on_both_loops
async def test_once_stopped_it_does_nothing_more(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger_module, "LINGER_TIMEOUT", 0.02)
    made, peer = await lingering(size)
    made.linger.stop()
    await asyncio.sleep(0.1)
    assert not made.is_lost and not made.transport.is_closing() and made.stuck == []
    made.transport.abort()
    await until(lambda: made.is_lost)
    peer.close()
