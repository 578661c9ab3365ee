"""How a WebSocket is closed by either side, and lost."""

import asyncio
import struct

from tests.workers.gateway.websocket_scene import (
    BOTH_ROLES,
    CLOSE,
    TEXT,
    by_hand,
    client_frame,
    close_code_in,
)
from tests.workers.gateway.wire_bench import on_both_loops
from workers.gateway import websocket as websocket_module


@BOTH_ROLES
@on_both_loops
async def test_we_close(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        session.websocket.send_messages([b"last"])
        session.websocket.close(1001, "draining " + "é" * 100)
        assert not session.websocket.send_messages([b"too late"])
        assert not session.websocket.ping(b"too late")

        assert await session.peer.recv() == "last"
        await session.peer.wait_closed()
        assert session.peer.close_code == 1001
        assert session.peer.close_reason.startswith("draining éé")
        assert (await session.owner.closes.get())[0] == 1001


@BOTH_ROLES
@on_both_loops
async def test_the_peer_closes(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        await session.peer.send("last")
        await session.peer.close(1012, "restart")

        assert await session.owner.closes.get() == (1012, "restart")
        assert await session.owner.messages.get() == b"last"
        assert session.peer.close_code == 1012
        assert not session.websocket.is_open


@BOTH_ROLES
@on_both_loops
async def test_a_close_without_code_is_1005(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        session.peer.protocol.send_close()
        session.peer.transport.writelines(session.peer.protocol.data_to_send())

        assert await session.owner.closes.get() == (1005, "")


@BOTH_ROLES
@on_both_loops
async def test_a_loss_without_close_frame_is_1006_once(role: object) -> None:
    async with role() as session:  # type: ignore[operator]
        session.peer.transport.abort()

        assert (await session.owner.closes.get())[0] == 1006
        session.websocket.abort()
        session.websocket.close()
        await asyncio.sleep(0)
        assert session.owner.closes.empty()


@on_both_loops
async def test_a_close_reason_that_is_no_utf8_is_1007() -> None:
    async with by_hand() as (_, owner, reader, writer):
        writer.write(client_frame(CLOSE, struct.pack("!H", 1000) + b"\xff"))

        assert close_code_in(await reader.read()) == 1007
        assert (await owner.closes.get())[0] == 1007


@on_both_loops
async def test_messages_still_arrive_between_our_close_and_the_peers() -> None:
    async with by_hand() as (websocket, owner, reader, writer):
        websocket.close()
        writer.write(client_frame(TEXT, b"late"))
        writer.write(client_frame(CLOSE, struct.pack("!H", 1000)))

        assert await owner.messages.get() == b"late"
        assert await owner.closes.get() == (1000, "")
        assert close_code_in(await reader.read()) == 1000


@on_both_loops
async def test_a_peer_that_does_not_answer_close_is_left_as_1006() -> None:
    async with by_hand() as (websocket, owner, reader, _):
        websocket_module.CLOSE_TIMEOUT = 0.01
        try:
            websocket.close()
            assert await owner.closes.get() == (1006, "the peer did not answer Close")
        finally:
            websocket_module.CLOSE_TIMEOUT = 2.0
        assert close_code_in(await reader.read()) == 1000
