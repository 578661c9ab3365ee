import asyncio
import os
import socket
import ssl
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from tests.workers.gateway.channels import channel_on, open_channel
from tests.workers.gateway.wire_bench import (
    RecordingOwner,
    mint,
    mint_pem,
    on_both_loops,
    python_context,
)
from workers.gateway import channel as channel_module
from workers.gateway.certificates import parse_pair
from workers.gateway.channel import Channel, after_read
from workers.gateway.tls import client_context, server_context

SERVER_PEM = mint_pem(["gw.example"])
SERVER = parse_pair(*SERVER_PEM)
CLIENT_PEM = mint_pem(["a.example"])
CLIENT = parse_pair(*CLIENT_PEM)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def adopted(owner: RecordingOwner) -> tuple[Channel, socket.socket]:
    """Our channel on an accepted raw socket, and the peer's blocking socket."""
    with listening() as listener:
        peer = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    peer.setblocking(False)
    return await channel_on(owner, accepted), peer


async def adopted_with_streams(owner: RecordingOwner) -> tuple[Channel, Streams]:
    channel, peer = await adopted(owner)
    return channel, await asyncio.open_connection(sock=peer)


async def connected_pair() -> tuple[Channel, RecordingOwner, Channel, RecordingOwner]:
    owner, other = RecordingOwner(), RecordingOwner()
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Channel] = loop.create_future()

    def accept() -> Channel:
        channel = Channel(other)
        made.set_result(channel)
        return channel

    server = await loop.create_server(accept, sock=listening())
    channel = await open_channel(owner, server.sockets[0].getsockname())
    accepted = await made
    await other.wait_for("connected")
    server.close()
    return channel, owner, accepted, other


async def secured_pair() -> tuple[Channel, RecordingOwner, Channel, RecordingOwner]:
    client, client_owner, server, server_owner = await connected_pair()
    server.start_tls(server_context(SERVER), server=True)
    client.start_tls(client_context(CLIENT), server=False, server_name="gw.example")
    await client_owner.wait_for("tls_established")
    await server_owner.wait_for("tls_established")
    return client, client_owner, server, server_owner


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


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_starttls_as_server_on_an_adopted_socket(version: ssl.TLSVersion) -> None:
    owner = RecordingOwner()
    channel, (reader, writer) = await adopted_with_streams(owner)
    writer.write(b"<starttls/>")
    await owner.wait_for_data(11)

    channel.write(b"<proceed/>")
    channel.start_tls(server_context(SERVER), server=True)
    assert await reader.readexactly(10) == b"<proceed/>"
    await writer.start_tls(python_context(server=False, pem=CLIENT_PEM, version=version))
    await owner.wait_for("tls_established")

    assert channel.peer_chain() == [*CLIENT.chain]
    assert channel.tls_summary().startswith(version.name.replace("_", "."))
    writer.write(b"secret")
    assert (await owner.wait_for_data(17))[11:] == b"secret"
    channel.write(b"answer")
    assert await reader.readexactly(6) == b"answer"
    writer.close()
    await owner.wait_for("eof_received")
    channel.close()
    await owner.wait_for("closed")
    assert owner.reason is None


def serve_tls(peer: socket.socket, context: ssl.SSLContext) -> bytes:
    """The peer as TLS server, blocking: reads five bytes, ends the connection in order."""
    peer.settimeout(10)
    with context.wrap_socket(peer, server_side=True) as wrapped:
        received = b""
        while len(received) < 5:
            received += wrapped.recv(100)
        wrapped.sendall(b"answer")
        wrapped.unwrap().close()
    return received


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_starttls_as_client_on_an_adopted_socket(version: ssl.TLSVersion) -> None:
    owner = RecordingOwner()
    channel, peer = await adopted(owner)
    loop = asyncio.get_running_loop()
    channel.write(b"<starttls/>")
    assert await loop.sock_recv(peer, 100) == b"<starttls/>"
    await loop.sock_sendall(peer, b"<proceed/>")
    await owner.wait_for_data(10)

    channel.start_tls(client_context(CLIENT), server=False, server_name="gw.example")
    channel.write(b"early")
    context = python_context(server=True, pem=SERVER_PEM, version=version)
    serving = asyncio.create_task(asyncio.to_thread(serve_tls, peer, context))

    assert (await owner.wait_for_data(16))[10:] == b"answer"
    assert channel.peer_chain() == [*SERVER.chain]
    await owner.wait_for("eof_received")
    channel.close()
    assert await serving == b"early"
    await owner.wait_for("closed")
    assert owner.reason is None


@on_both_loops
async def test_a_client_without_certificate_is_let_in_with_an_empty_chain() -> None:
    owner = RecordingOwner()
    channel, (_, writer) = await adopted_with_streams(owner)
    channel.start_tls(server_context(SERVER), server=True)

    await writer.start_tls(python_context(server=False))
    await owner.wait_for("tls_established")

    assert channel.peer_chain() == []
    writer.close()
    await owner.wait_for("eof_received")
    channel.close()
    await owner.wait_for("closed")


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


@on_both_loops
async def test_what_was_written_before_close_arrives_before_the_end() -> None:
    client, client_owner, server, server_owner = await secured_pair()
    data = os.urandom(3_000_000)

    client.write(data)
    client.close()
    client.write(b"too late")

    assert await server_owner.wait_for_data(len(data)) == data
    await server_owner.wait_for("eof_received")
    server.close()
    await server_owner.wait_for("closed")
    await client_owner.wait_for("closed")
    assert (client_owner.reason, server_owner.reason) == (None, None)
    assert server_owner.told.count("eof_received") == 1


@on_both_loops
async def test_after_the_peers_end_we_can_still_write() -> None:
    owner = RecordingOwner()
    channel, (reader, writer) = await adopted_with_streams(owner)
    writer.write(b"question")
    writer.write_eof()
    await owner.wait_for("eof_received")

    channel.write(b"answer")
    channel.close()

    assert await reader.read() == b"answer"
    writer.close()
    await owner.wait_for("closed")


@on_both_loops
async def test_close_while_the_peer_is_sending_makes_no_rst() -> None:
    owner = RecordingOwner()
    channel, (reader, writer) = await adopted_with_streams(owner)
    writer.write(b"x" * 500_000)
    await owner.wait_for_data(1)

    channel.write(b"goodbye")
    channel.close()
    writer.write(b"y" * 500_000)

    assert await reader.read() == b"goodbye"
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await owner.wait_for("closed")
    assert owner.reason is None


@on_both_loops
async def test_a_peer_that_never_reads_is_cut_after_the_linger() -> None:
    owner = RecordingOwner()
    channel, peer = await adopted(owner)
    channel_module.LINGER_TIMEOUT = 0.05
    try:
        channel.write(b"x" * 20_000_000)
        channel.close()
        await owner.wait_for("closed")
    finally:
        channel_module.LINGER_TIMEOUT = 2.0
    assert owner.reason == "the peer stopped reading"
    peer.close()


@on_both_loops
async def test_a_peer_that_never_ends_is_left_after_the_linger() -> None:
    owner = RecordingOwner()
    channel, peer = await adopted(owner)
    channel_module.LINGER_TIMEOUT = 0.05
    try:
        channel.close("enough")
        await owner.wait_for("closed")
    finally:
        channel_module.LINGER_TIMEOUT = 2.0
    assert owner.reason == "enough"
    peer.close()


@on_both_loops
async def test_a_reset_is_told_with_its_cause() -> None:
    owner = RecordingOwner()
    _, peer = await adopted(owner)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    peer.close()
    await owner.wait_for("closed")

    assert owner.reason is not None and "reset" in owner.reason


@on_both_loops
async def test_loss_without_close_notify_is_an_end_of_input() -> None:
    client, client_owner, server, server_owner = await secured_pair()

    assert client._transport is not None
    client._transport.write_eof()
    await server_owner.wait_for("eof_received")
    server.close()
    await server_owner.wait_for("closed")
    client.abort()
    await client_owner.wait_for("closed")

    assert server_owner.reason is None


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(100)])
@on_both_loops
async def test_garbage_on_a_tls_port_ends_the_connection_with_a_reason(garbage: bytes) -> None:
    owner = RecordingOwner()
    channel, (reader, writer) = await adopted_with_streams(owner)
    channel.start_tls(server_context(SERVER), server=True)

    writer.write(garbage)
    await reader.read()
    writer.close()
    await owner.wait_for("closed")

    assert owner.reason is not None and owner.reason.startswith("TLS handshake: ")
    assert owner.data == b""


@on_both_loops
async def test_an_end_during_the_handshake_is_told_as_such() -> None:
    owner = RecordingOwner()
    channel, (_, writer) = await adopted_with_streams(owner)
    channel.start_tls(server_context(SERVER), server=True)

    writer.close()
    await owner.wait_for("closed")

    assert owner.reason == "the peer ended the connection during the TLS handshake"


@on_both_loops
async def test_a_server_that_refuses_our_certificate_is_told_with_its_alert() -> None:
    owner = RecordingOwner()
    channel, peer = await adopted(owner)
    strict = python_context(server=True, pem=SERVER_PEM)
    strict.verify_mode = ssl.CERT_REQUIRED

    channel.start_tls(client_context(None), server=False)
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(serve_tls, peer, strict)
    await owner.wait_for("closed")

    assert owner.reason is not None and "certificate required" in owner.reason


@on_both_loops
async def test_reading_can_be_paused() -> None:
    client, client_owner, server, server_owner = await secured_pair()

    server.pause_reading()
    client.write(b"x" * 20_000_000)
    await client_owner.wait_for("write_paused")
    assert server_owner.data == b""
    server.resume_reading()

    await server_owner.wait_for_data(20_000_000)
    client.abort()
    server.abort()
    await server_owner.wait_for("closed")


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


def test_certificates_of_the_tests_are_server_auth_only() -> None:
    assert mint("x.example").names == {"x.example"}


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
