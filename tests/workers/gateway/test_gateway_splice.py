"""The line that tells a stream from another machine, and what is done when that machine is away."""

import asyncio
import socket

import pytest

from tests.workers.gateway.tcp import tcp_pair
from workers.gateway import gateway_splice
from workers.gateway.gateway_splice import splice_to_gateway, take_greeting
from workers.gateway.native import NativeFailed
from workers.gateway.peek import PeekFailed


async def test_the_line_is_taken_and_nothing_else():
    near, far = tcp_pair()
    far.send(b"fedgate-splice gw1\n<stream:stream")
    assert await take_greeting(near, "gw1")
    assert near.recv(100) == b"<stream:stream"
    near.close()
    far.close()


@pytest.mark.parametrize("said", [b"<stream", b"\x16\x03", b"f<", b"fedgate?"])
async def test_of_any_other_stream_nothing_is_taken(said):
    near, far = tcp_pair()
    far.send(said)
    assert not await take_greeting(near, "gw1")
    assert near.recv(100) == said
    near.close()
    far.close()


async def test_a_line_in_pieces_is_waited_for():
    near, far = tcp_pair()
    far.send(b"fedgate-spl")
    taking = asyncio.create_task(take_greeting(near, "gw1"))
    await asyncio.sleep(0.03)
    far.send(b"ice gw1\n<")
    assert await taking
    assert near.recv(100) == b"<"
    near.close()
    far.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"fedgate-splice gw2\n", "for gateway 'gw2' came to 'gw1'"),
        (b"fedgate-splice " + b"x" * 300, "without an end"),
        (b"fedgate-splice ", "no stream header within"),
    ],
)
async def test_what_is_not_for_us_is_refused(said, reason):
    near, far = tcp_pair()
    far.send(said)
    with pytest.raises(PeekFailed, match=reason):
        await take_greeting(near, "gw1", timeout=0.1)
    near.close()
    far.close()


async def test_a_machine_that_is_away_leaves_the_stream_with_us(monkeypatch):
    monkeypatch.setattr(gateway_splice, "ANSWER_TIMEOUT", 0.05)
    near, far = tcp_pair()
    far.send(b"<stream:stream>")
    silent = socket.create_server(("127.0.0.1", 0))
    silent_address = f"127.0.0.1:{silent.getsockname()[1]}"
    with pytest.raises(NativeFailed, match="no answer within"):
        await splice_to_gateway(near, silent_address, "gw2")
    silent.close()
    with pytest.raises(NativeFailed, match="cannot be reached"):
        await splice_to_gateway(near, silent_address, "gw2")
    assert near.recv(100) == b"<stream:stream>"
    near.close()
    far.close()
