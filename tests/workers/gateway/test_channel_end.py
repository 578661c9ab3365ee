"""How a channel ends: in order, with what was written before, and when the peer does not."""

import os
import socket
import struct

import pytest

from tests.workers.gateway.channels import adopted, adopted_with_streams, secured_pair
from tests.workers.gateway.wire_bench import RecordingOwner, on_both_loops
from workers.gateway import linger


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
async def test_a_peer_that_never_reads_is_cut_after_the_linger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linger, "LINGER_TIMEOUT", 0.05)
    owner = RecordingOwner()
    channel, peer = await adopted(owner)
    channel.write(b"x" * 20_000_000)
    channel.close()
    await owner.wait_for("closed")
    assert owner.reason == "the peer stopped reading"
    peer.close()


@on_both_loops
async def test_one_that_has_ended_its_side_is_cut_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER_TIMEOUT", 0.05)
    owner = RecordingOwner()
    channel, peer = await adopted(owner)
    channel.write(b"x" * 20_000_000)
    peer.shutdown(socket.SHUT_WR)
    await owner.wait_for("eof_received")
    channel.close()
    await owner.wait_for("closed")
    assert owner.reason == "the peer stopped reading"
    peer.close()


@on_both_loops
async def test_one_that_said_close_notify_is_cut_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER_TIMEOUT", 0.05)
    client, _, server, owner = await secured_pair()
    client.pause_reading()
    assert client._tls is not None and client._transport is not None
    client._tls.shutdown()
    client._transport.write(client._tls.data_to_send())
    server.write(b"x" * 20_000_000)
    await owner.wait_for("eof_received")
    server.close()
    await owner.wait_for("closed")
    assert owner.reason == "the peer stopped reading"
    client.abort()


@on_both_loops
async def test_who_reads_behind_its_end_gets_all() -> None:
    owner = RecordingOwner()
    channel, (reader, writer) = await adopted_with_streams(owner)
    channel.write(b"x" * 20_000_000)
    writer.write_eof()
    await owner.wait_for("eof_received")
    channel.close()
    assert len(await reader.read()) == 20_000_000
    await owner.wait_for("closed")
    assert owner.reason is None
    writer.close()


@on_both_loops
async def test_a_peer_that_never_ends_is_left_after_the_linger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linger, "LINGER_TIMEOUT", 0.05)
    owner = RecordingOwner()
    channel, peer = await adopted(owner)
    channel.close("enough")
    await owner.wait_for("closed")
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
