"""The head of the HTTP message that opens a WebSocket: in any pieces, and how long it may be."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import websockets
from websockets.asyncio.server import ServerConnection
from websockets.server import ServerProtocol

from tests.workers.gateway.websocket_scene import (
    HANDSHAKE,
    TEXT,
    client_frame,
    listening,
)
from tests.workers.gateway.wire_bench import RecordingWebSocketOwner, on_both_loops
from workers.gateway.frame_reader import LIBRARY_LOG
from workers.gateway.frames import text_frames
from workers.gateway.websocket import WebSocket
from workers.gateway.websocket_connect import connect
from workers.gateway.websocket_handshake import MAX_HEAD, OpeningWebSocket


@on_both_loops
async def test_messages_that_follow_the_response_at_once_are_not_lost() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.send("first")
        await peer.wait_closed()

    async with websockets.serve(
        handler,
        "127.0.0.1",
        0,
        subprotocols=["xmpp"],
        compression=None,  # type: ignore[list-item]
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        owner = RecordingWebSocketOwner()
        websocket = await connect(
            f"ws://x.example:{port}/", owner, address=("127.0.0.1", port), context=None
        )
        assert await owner.messages.get() == b"first"
        websocket.close()
        await owner.closes.get()


class Head(OpeningWebSocket):
    """Neither role: writes down the head that it is told."""

    def __init__(self) -> None:
        super().__init__(ServerProtocol(logger=LIBRARY_LOG))
        self._head = bytearray()
        self.heads: list[tuple[bytes, bytes]] = []
        self.long: list[bytes] = []

    def _on_head(self, head: bytes, rest: bytes) -> None:
        self.heads.append((head, rest))

    def _on_long_head(self, head: bytes) -> None:
        self.long.append(head)


@on_both_loops
async def test_the_head_is_told_once_it_is_whole_and_what_came_behind_it() -> None:
    data = HANDSHAKE + b"behind\r\n\r\n"
    for cut in range(1, len(HANDSHAKE)):
        websocket = Head()
        websocket.data_received(data[:cut])
        assert not websocket.heads
        websocket.data_received(data[cut:])
        assert websocket.heads == [(HANDSHAKE, b"behind\r\n\r\n")] and not websocket.long


@on_both_loops
async def test_a_head_may_come_byte_by_byte() -> None:
    websocket = Head()
    for at in range(len(HANDSHAKE)):
        assert not websocket.heads
        websocket.data_received(HANDSHAKE[at : at + 1])
    assert websocket.heads == [(HANDSHAKE, b"")]


@pytest.mark.parametrize("step", [1, 1000, MAX_HEAD])
@on_both_loops
async def test_a_head_without_end_is_told_when_it_is_too_long(step: int) -> None:
    websocket, endless = Head(), b"x: y\r\n" * MAX_HEAD
    for at in range(0, MAX_HEAD, step):
        websocket.data_received(endless[at : min(at + step, MAX_HEAD)])
    assert not websocket.long
    websocket.data_received(endless[MAX_HEAD : MAX_HEAD + 1])
    assert websocket.long == [endless[: MAX_HEAD + 1]] and not websocket.heads


@pytest.mark.parametrize("step", [1000, 4 * MAX_HEAD])
@on_both_loops
async def test_a_head_may_not_be_longer_in_one_piece_than_in_several(step: int) -> None:
    for size, is_long in ((MAX_HEAD, False), (MAX_HEAD + 1, True)):
        websocket, head = Head(), b"x" * (size - 4) + b"\r\n\r\n"
        data = head + b"behind"
        for at in range(0, len(data), step):
            if not (websocket.heads or websocket.long):
                websocket.data_received(data[at : at + step])
        assert bool(websocket.long) == is_long
        assert bool(websocket.heads) != is_long


@on_both_loops
async def test_what_is_long_and_no_http_is_answered_like_what_is_short() -> None:
    async with listening(secure=False) as (port, made):
        for data in (b"HELO mail.example\r\n\r\n", b"HELO mail.example\r\n" * MAX_HEAD):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data[: 2 * MAX_HEAD])
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
            writer.close()
        assert made.empty()


@pytest.mark.parametrize("size", [1, 7])
@on_both_loops
async def test_a_request_that_trickles_opens_a_websocket(size: int) -> None:
    async with listening(secure=False) as (port, made):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for at in range(0, len(HANDSHAKE), size):
            assert made.empty()
            writer.write(HANDSHAKE[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        websocket, owner = await made.get()
        writer.write(client_frame(TEXT, b"<open/>"))
        assert await owner.messages.get() == b"<open/>"
        writer.close()
        websocket.abort()


@pytest.mark.parametrize(("line", "status"), [(b"x: y\r\n", b"431"), (b"x" * 6, b"414")])
@on_both_loops
async def test_a_request_without_end_that_trickles_is_refused(line: bytes, status: bytes) -> None:
    async with listening(secure=False) as (port, made):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if status == b"431":
            writer.write(b"GET /s2s HTTP/1.1\r\n")
        answer = asyncio.ensure_future(reader.read())
        while not answer.done():
            writer.write(line)
            await asyncio.sleep(0)
        assert answer.result().startswith(b"HTTP/1.1 %s " % status)
        assert made.empty()
        writer.close()


@asynccontextmanager
async def answering(pieces: Callable[[bytes], list[bytes]]) -> AsyncIterator[int]:
    """A server that sends its response, to which each request leads, in these pieces."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = ServerProtocol(subprotocols=["xmpp"])  # type: ignore[list-item]
        peer.receive_data(await reader.readuntil(b"\r\n\r\n"))
        (request,) = peer.events_received()
        peer.send_response(peer.accept(request))  # type: ignore[arg-type]
        for piece in pieces(b"".join(peer.data_to_send())):
            writer.write(piece)
            await asyncio.sleep(0)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        done.set()

    done = asyncio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
        await done.wait()
    finally:
        server.close()


async def opened(port: int, owner: RecordingWebSocketOwner) -> WebSocket:
    return await connect(
        f"ws://x.example:{port}/", owner, address=("127.0.0.1", port), context=None
    )


@pytest.mark.parametrize("size", [1, 7, 10_000])
@on_both_loops
async def test_a_response_that_trickles_opens_a_websocket(size: int) -> None:
    first = text_frames([b"<open/>", b"<features/>"], mask=False)

    def pieces(response: bytes) -> list[bytes]:
        data = response + first
        return [data[at : at + size] for at in range(0, len(data), size)]

    async with answering(pieces) as port:
        owner = RecordingWebSocketOwner()
        websocket = await opened(port, owner)
        assert [await owner.messages.get() for _ in range(2)] == [b"<open/>", b"<features/>"]
        websocket.channel.close()
