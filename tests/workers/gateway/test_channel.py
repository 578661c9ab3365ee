"""What crosses a channel, when it leaves, and what keeps it waiting."""

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from tests.workers.gateway.channels import (
    adopted,
    channel_on,
    connected_pair,
    listening,
    open_channel,
    secured_pair,
)
from tests.workers.gateway.wire_bench import RecordingOwner, on_both_loops
from workers.gateway import channel as channel_module
from workers.gateway.after_read import after_read
from workers.gateway.channel import Channel


@on_both_loops
async def test_plain_bytes_cross_and_writes_of_a_turn_leave_together() -> None:
    client, _, server, server_owner = await connected_pair()

    for piece in (b"a", b"b", b"c"):
        client.write(piece)

    assert client.buffered == 3
    assert await server_owner.wait_for_data(3) == b"abc"
    assert server.peername[0] == "127.0.0.1"
    client.close()
    await server_owner.wait_for("eof_received")
    server.close()
    await server_owner.wait_for("closed")
    assert server_owner.reason is None


@on_both_loops
async def test_nagle_is_off_on_connected_and_adopted_sockets() -> None:
    client, _, server, server_owner = await connected_pair()
    owner = RecordingOwner()
    channel, peer = await adopted(owner)

    for one in (client, server, channel):
        assert one._transport is not None
        sock = one._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    peer.close()
    channel.abort()
    client.abort()
    server.abort()
    await server_owner.wait_for("closed")


@on_both_loops
async def test_big_writes_pause_the_owner_and_arrive_whole() -> None:
    client, client_owner, server, server_owner = await secured_pair()
    data = os.urandom(1 << 20) * 8
    server.pause_reading()

    client.write(data)
    await client_owner.wait_for("write_paused")
    assert client.buffered > channel_module.HIGH_WATER
    assert "write_resumed" not in client_owner.told
    server.resume_reading()

    assert await server_owner.wait_for_data(len(data)) == data
    await client_owner.wait_for("write_resumed")
    client.close()
    await server_owner.wait_for("eof_received")
    server.close()
    await client_owner.wait_for("closed")


async def asking_for_quick_acks(
    owner: RecordingOwner,
) -> tuple[Channel, socket.socket, list[tuple[int, ...]]]:
    """A channel, its peer, and what the channel asks the kernel for."""
    with listening() as listener:
        peer = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    channel = await channel_on(owner, accepted, quick_ack=True)
    asked: list[tuple[int, ...]] = []
    channel._quick_ack_socket = SimpleNamespace(setsockopt=lambda *option: asked.append(option))
    return channel, peer, asked


@on_both_loops
async def test_quick_ack_is_asked_for_by_the_first_read_after_each_write() -> None:
    owner = RecordingOwner()
    channel, peer, asked = await asking_for_quick_acks(owner)

    for number in (1, 2):
        peer.sendall(b"data")
        await owner.wait_for_data(4 * number)
    assert asked == [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)]
    channel.write(b"answer")
    channel.flush()
    for number in (3, 4):
        peer.sendall(b"data")
        await owner.wait_for_data(4 * number)
    assert len(asked) == 2

    assert peer.recv(100) == b"answer"
    peer.close()
    await owner.wait_for("eof_received")
    channel.close()
    await owner.wait_for("closed")


@on_both_loops
async def test_no_quick_ack_is_asked_for_by_a_read_that_is_answered() -> None:
    class Answering(RecordingOwner):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            channel.write(data)

    owner = Answering()
    channel, peer, asked = await asking_for_quick_acks(owner)

    for number in (1, 2):
        peer.sendall(b"data")
        await owner.wait_for_data(4 * number)
    assert asked == []
    channel.owner = silent = RecordingOwner()
    for number in (1, 2):
        peer.sendall(b"data")
        await silent.wait_for_data(4 * number)
    assert len(asked) == 1

    assert peer.recv(100) == b"datadata"
    peer.close()
    await silent.wait_for("eof_received")
    channel.close()
    await silent.wait_for("closed")


@on_both_loops
async def test_what_is_written_in_a_read_leaves_at_its_end_even_if_a_step_fails() -> None:
    owner = RecordingOwner()
    ours, peer = socket.socketpair()
    channel = await channel_on(owner, ours)
    loop = asyncio.get_running_loop()
    done: list[str] = []

    def fail() -> None:
        channel.write(b"writ")
        channel.write(b"ten")
        after_read(loop, lambda: done.append("the last"))
        raise ValueError("a step")

    def take(data: bytes) -> None:
        after_read(loop, lambda: done.append("the first"))
        after_read(loop, fail)
        assert not done

    owner.data_received = take  # type: ignore[method-assign]
    channel.get_buffer(-1)[:4] = b"data"
    problems: list[Any] = []
    loop.set_exception_handler(lambda _, context: problems.append(context["exception"]))
    channel.buffer_updated(4)  # raises nothing: the connection that reads goes on
    assert done == ["the first", "the last"]
    assert [str(problem) for problem in problems] == ["a step"]
    peer.settimeout(5)
    assert await loop.run_in_executor(None, peer.recv, 100) == b"written"

    peer.close()
    channel.abort()
    await owner.wait_for("closed")


@on_both_loops
async def test_a_closed_socket_cannot_be_adopted() -> None:
    sock = socket.socket()
    sock.close()

    with pytest.raises(OSError):
        await channel_on(RecordingOwner(), sock)


@on_both_loops
async def test_a_refused_connection_raises() -> None:
    with listening() as listener:
        address = listener.getsockname()

    with pytest.raises(OSError):
        await open_channel(RecordingOwner(), address)


@on_both_loops
async def test_a_unix_socket_is_a_channel_too(tmp_path: object) -> None:
    owner, other = RecordingOwner(), RecordingOwner()
    path = f"{tmp_path}/s.{id(owner)}"
    loop = asyncio.get_running_loop()
    accepted: list[Channel] = []

    def accept() -> Channel:
        accepted.append(Channel(other))
        return accepted[0]

    server = await loop.create_unix_server(accept, path)

    channel = await open_channel(owner, path)
    channel.write(b"data")

    assert await other.wait_for_data(4) == b"data"
    channel.close()
    await other.wait_for("eof_received")
    accepted[0].close()
    await owner.wait_for("closed")
    await other.wait_for("closed")
    server.close()


@on_both_loops
async def test_a_channel_is_idle_once_after_traffic() -> None:
    channel, owner, accepted, other = await connected_pair()
    for count in (1, 2):
        assert [channel.shrink_if_idle() for _ in range(4)] == [False, True, False, False]
        accepted.write(b"x")
        await owner.wait_for_data(count)
    channel.write(b"x")
    channel.flush()
    assert not channel.shrink_if_idle()
    channel.abort()
    accepted.abort()
    await owner.wait_for("closed")
    await other.wait_for("closed")
