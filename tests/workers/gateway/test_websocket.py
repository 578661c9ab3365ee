"""Messages and pings cross whole and in order, and the owner is paused."""

import os

from websockets.frames import Opcode

from tests.workers.gateway.websocket_scene import (
    BOTH_ROLES,
    PING,
    TEXT,
    by_hand,
    client_frame,
)
from tests.workers.gateway.wire_bench import on_both_loops


@BOTH_ROLES
@on_both_loops
async def test_messages_of_all_sizes_cross_both_ways(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        sent = [os.urandom(size // 2).hex().encode() for size in (2, 124, 126, 65534, 65536, 99998)]

        assert session.websocket.send_messages(sent)
        assert [await session.peer.recv(decode=False) for _ in sent] == sent
        for message in sent:
            await session.peer.send(message, text=True)
        assert [await session.owner.messages.get() for _ in sent] == sent


@BOTH_ROLES
@on_both_loops
async def test_pings_are_answered_in_both_directions(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        await (await session.peer.ping())

        assert session.websocket.ping(b"mark")

        assert await session.owner.pongs.get() == b"mark"


@BOTH_ROLES
@on_both_loops
async def test_a_flood_pauses_the_owner_and_arrives_whole(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        session.peer.transport.pause_reading()
        message = b"<message>" + b"x" * 50_000 + b"</message>"
        for _ in range(200):
            session.websocket.send_messages([message])
        await session.owner.wait_for("paused")
        assert session.websocket.channel.buffered > 1_000_000

        session.peer.transport.resume_reading()

        for _ in range(200):
            assert await session.peer.recv(decode=False) == message
        await session.owner.wait_for("resumed")


@on_both_loops
async def test_what_came_before_a_pong_is_told_before_it() -> None:
    async with by_hand() as (_, owner, _, writer):
        pong = client_frame(Opcode.PONG, b"mark")
        writer.write(client_frame(TEXT, b"a") + pong + client_frame(TEXT, b"b"))
        await owner.messages.get()
        await owner.messages.get()

        assert owner.order == ["messages", "pong", "messages"]


@on_both_loops
async def test_a_peer_that_pings_and_never_reads_does_not_fill_our_memory() -> None:
    async with by_hand() as (websocket, owner, reader, writer):
        websocket.send_messages([b"x" * 20_000_000])
        await owner.wait_for("paused")
        before = websocket.channel.buffered
        for number in range(1000):
            writer.write(client_frame(PING, b"%d" % number))
        writer.write(client_frame(TEXT, b"end"))
        await owner.messages.get()
        assert websocket.channel.buffered <= before

        await reader.readexactly(20_000_010)

        assert await reader.readexactly(5) == b"\x8a\x03999"
