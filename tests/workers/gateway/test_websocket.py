"""Messages and pings cross whole and in order, however they are cut, and the owner is paused."""

import asyncio
import os
import random
import struct

import pytest
from websockets.frames import Frame, Opcode

from tests.workers.gateway.websocket_scene import (
    BOTH_ROLES,
    CLOSE,
    CONT,
    PING,
    TEXT,
    by_hand,
    client_frame,
)
from tests.workers.gateway.wire_bench import on_both_loops
from workers.gateway.frame_reader import MAX_FRAMES
from workers.gateway.frames import text_frames


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
async def test_fragments_are_put_together_with_pings_between(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        protocol, transport = session.peer.protocol, session.peer.transport
        await session.peer.send("before")
        protocol.send_text(b"one ", fin=False)
        protocol.send_ping(b"between")
        protocol.send_continuation(b"", fin=False)
        protocol.send_continuation(b"message", fin=True)
        transport.writelines(protocol.data_to_send())
        await session.peer.send(["and", " another"])
        await session.peer.send("after")

        received = [await session.owner.messages.get() for _ in range(4)]

        assert received == [b"before", b"one message", b"and another", b"after"]


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
async def test_allowed_peers_may_leave_out_the_mask() -> None:
    async with by_hand(unmasked=True) as (_, owner, reader, writer):
        ping = Frame(PING, b"p").serialize(mask=False)
        fragments = Frame(TEXT, b"<b", False).serialize(mask=False) + Frame(
            CONT, b"/>" + b"x" * 200
        ).serialize(mask=False)
        writer.write(text_frames([b"<a/>"], mask=False) + ping + fragments)
        writer.write(text_frames([b"<c/>"], mask=True))

        expected = [b"<a/>", b"<b/>" + b"x" * 200, b"<c/>"]
        assert [await owner.messages.get() for _ in range(3)] == expected
        assert await reader.readexactly(3) == b"\x8a\x01p"


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


@on_both_loops
async def test_a_read_of_many_messages_is_one_batch() -> None:
    async with by_hand() as (_, owner, _, writer):
        writer.write(text_frames([b"<a/>"] * MAX_FRAMES, mask=True))
        for _ in range(MAX_FRAMES):
            await owner.messages.get()

        assert len(owner.batches) <= 2


@pytest.mark.parametrize("seed", range(5))
@on_both_loops
async def test_any_split_of_the_bytes_gives_the_same_messages(seed: int) -> None:
    chance = random.Random(seed)
    async with by_hand() as (_, owner, reader, writer):
        expected, data = [], b""
        for _ in range(60):
            message = b"x" * chance.choice([0, 1, 125, 126, 127, 300, 65535, 65536])
            cut = chance.randrange(len(message) + 1)
            expected.append(message)
            if chance.random() < 0.5:
                data += client_frame(TEXT, message)
            else:
                data += client_frame(TEXT, message[:cut], fin=False)
                data += client_frame(PING, b"?")
                data += client_frame(CONT, message[cut:])
        data += client_frame(CLOSE, struct.pack("!H", 1000))
        while data:
            size = chance.choice([1, 2, 5, 1000, 70000])
            writer.write(data[:size])
            data = data[size:]
            await writer.drain()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        await owner.closes.get()

        received = [owner.messages.get_nowait() for _ in range(owner.messages.qsize())]
        assert received == expected
        assert (await reader.read()).endswith(b"\x88\x02\x03\xe8")
