"""TLS of a channel: begun after plain text by either side, and refused."""

import asyncio
import socket
import ssl

import pytest

from tests.workers.gateway.channels import (
    CLIENT,
    CLIENT_PEM,
    SERVER,
    SERVER_PEM,
    adopted,
    adopted_with_streams,
)
from tests.workers.gateway.wire_bench import RecordingOwner, mint, on_both_loops, python_context
from workers.gateway.tls import client_context, server_context


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


def test_certificates_of_the_tests_are_server_auth_only() -> None:
    assert mint("x.example").names == {"x.example"}
