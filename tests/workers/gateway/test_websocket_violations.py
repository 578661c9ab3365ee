"""Frames that end the connection: binary, too big, broken."""

import asyncio
import struct

import pytest
import websockets
from websockets.frames import Frame, Opcode

from tests.workers.gateway.websocket_scene import (
    BOTH_ROLES,
    CLOSE,
    CONT,
    MAX_MESSAGE,
    PING,
    TEXT,
    by_hand,
    client_frame,
    close_code_in,
)
from tests.workers.gateway.wire_bench import on_both_loops
from workers.gateway.frames import text_frames


@BOTH_ROLES
@on_both_loops
async def test_binary_messages_end_the_connection_with_1003(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        await session.peer.send("text")
        await session.peer.send(b"binary")
        await session.peer.wait_closed()

        assert session.peer.close_code == 1003
        assert (await session.owner.closes.get())[0] == 1003
        assert session.owner.messages.qsize() == 1


@BOTH_ROLES
@pytest.mark.parametrize("fragmented", [True, False])
@on_both_loops
async def test_too_big_messages_end_the_connection_with_1009(
    role: object, fragmented: bool
) -> None:
    async with role() as session:  # type: ignore[operator]
        half = "x" * (MAX_MESSAGE // 2 + 1)
        try:
            await session.peer.send([half, half] if fragmented else half + half)
        except websockets.ConnectionClosed:
            pass  # the Close came while it was sending
        await session.peer.wait_closed()

        assert session.peer.close_code == 1009
        assert (await session.owner.closes.get())[0] == 1009
        assert session.owner.messages.empty()


BROKEN = {
    "unmasked": text_frames([b"<a/>"], mask=False),
    "rsv1": client_frame(TEXT, b"<a/>", reserved=0x40),
    "rsv3": client_frame(TEXT, b"<a/>", reserved=0x10),
    "reserved data opcode": b"\x83\x80\0\0\0\0",
    "reserved control opcode": b"\x8b\x80\0\0\0\0",
    "continuation first": client_frame(CONT, b"<a/>"),
    "text inside a fragmented message": client_frame(TEXT, b"<", fin=False)
    + client_frame(TEXT, b"a/>"),
    "fragmented ping": b"\x09\x80\0\0\0\0",
    "long ping": b"\x89\xfe\x00\x7e" + b"\0" * 130,
    "long pong": b"\x8a\xfe\x00\x7e" + b"\0" * 130,
    "unmasked ping": Frame(PING, b"p").serialize(mask=False),
    "unmasked pong": Frame(Opcode.PONG, b"").serialize(mask=False),
    "rsv2 in a ping": client_frame(PING, b"p", reserved=0x20),
    "close of one byte": client_frame(CLOSE, b"x"),
    "close with a code nobody may send": client_frame(CLOSE, struct.pack("!H", 1005)),
}


@pytest.mark.parametrize("bytewise", [True, False])
@pytest.mark.parametrize("broken", BROKEN)
@on_both_loops
async def test_broken_frames_end_the_connection_with_1002(broken: str, bytewise: bool) -> None:
    async with by_hand() as (_, owner, reader, writer):
        data = client_frame(TEXT, b"good") + BROKEN[broken] + client_frame(TEXT, b"after")
        for at in range(0, len(data), 1 if bytewise else len(data)):
            writer.write(data[at : at + (1 if bytewise else len(data))])
            await asyncio.sleep(0)

        assert close_code_in(await reader.read()) == 1002
        assert (await owner.closes.get())[0] == 1002
        assert [owner.messages.get_nowait() for _ in range(owner.messages.qsize())] == [b"good"]


@on_both_loops
async def test_an_announced_size_over_the_limit_is_refused_at_once() -> None:
    async with by_hand() as (_, owner, reader, writer):
        writer.write(b"\x81\xff" + struct.pack("!Q", 2**62) + b"\0\0\0\0")

        assert close_code_in(await reader.read()) == 1009
        assert (await owner.closes.get())[0] == 1009
