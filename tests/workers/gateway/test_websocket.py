"""Frames after the opening, against the `websockets` library and against hand-made bytes."""

import asyncio
import os
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from tests.workers.gateway.wire_bench import (
    RecordingWebSocketOwner,
    mint,
    mint_pem,
    on_both_loops,
    python_context,
)
from workers.gateway import websocket as websocket_module
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.frames import text_frames
from workers.gateway.tls import client_context, server_context
from workers.gateway.websocket import MAX_FRAMES, WebSocket
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint, serve
from workers.gateway.websocket_connect import connect

SERVER_PEM = mint_pem(["gw.example"])
SERVER = mint("gw.example")
MAX_MESSAGE = 100_000
XMPP = [Subprotocol("xmpp")]


@dataclass
class Session:
    """Our end of a connection whose other end is the library's."""

    websocket: WebSocket
    owner: RecordingWebSocketOwner
    peer: ClientConnection | ServerConnection


@asynccontextmanager
async def listening(
    *, secure: bool, unmasked: bool = False
) -> AsyncIterator[tuple[int, "asyncio.Queue[tuple[WebSocket, RecordingWebSocketOwner]]"]]:
    made: asyncio.Queue[tuple[WebSocket, RecordingWebSocketOwner]] = asyncio.Queue()

    def new_owner(websocket: AcceptedWebSocket) -> RecordingWebSocketOwner:
        owner = RecordingWebSocketOwner()
        made.put_nowait((websocket, owner))
        return owner

    endpoint = Endpoint(
        path="/s2s",
        new_owner=new_owner,
        context=server_context(SERVER) if secure else None,
        proxies=TrustedProxies(("127.0.0.1/32",)),
        max_message=MAX_MESSAGE,
        allow_unmasked=lambda _address: unmasked,
    )
    sock = socket.create_server(("127.0.0.1", 0))
    server = await serve(endpoint, sock)
    try:
        yield sock.getsockname()[1], made
    finally:
        server.close()


@asynccontextmanager
async def accepted() -> AsyncIterator[Session]:
    """We accept, the library connects."""
    async with (
        listening(secure=True) as (port, made),
        websockets.connect(
            f"wss://localhost:{port}/s2s",
            host="127.0.0.1",
            ssl=python_context(server=False),
            subprotocols=XMPP,
            compression=None,
            proxy=None,
            close_timeout=1,
        ) as peer,
    ):
        websocket, owner = await made.get()
        yield Session(websocket, owner, peer)


@asynccontextmanager
async def connected() -> AsyncIterator[Session]:
    """We connect, the library accepts."""
    peers: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handler(peer: ServerConnection) -> None:
        peers.put_nowait(peer)
        await peer.wait_closed()

    async with websockets.serve(
        handler,
        "127.0.0.1",
        0,
        ssl=python_context(server=True, pem=SERVER_PEM),
        subprotocols=XMPP,
        compression=None,
        close_timeout=1,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        owner = RecordingWebSocketOwner()
        websocket = await connect(
            f"wss://gw.example:{port}/s2s",
            owner,
            address=("127.0.0.1", port),
            context=client_context(),
            max_message=MAX_MESSAGE,
        )
        yield Session(websocket, owner, await peers.get())
        websocket.abort()


BOTH_ROLES = pytest.mark.parametrize("role", [accepted, connected])


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


# Hand-made bytes from a client, without TLS.

HANDSHAKE = (
    b"GET /s2s HTTP/1.1\r\nHost: gw.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: xmpp\r\n\r\n"
)


def client_frame(opcode: Opcode, data: bytes, *, fin: bool = True, reserved: int = 0) -> bytes:
    serialized = Frame(opcode, data, fin).serialize(mask=True)
    return bytes((serialized[0] | reserved,)) + serialized[1:]


def close_code_in(data: bytes) -> int:
    """The code of the Close frame that ends what a server sent."""
    at = data.index(b"\x88")
    return int(struct.unpack("!H", data[at + 2 : at + 4])[0])


@asynccontextmanager
async def by_hand(
    *, unmasked: bool = False
) -> AsyncIterator[
    tuple[WebSocket, RecordingWebSocketOwner, asyncio.StreamReader, asyncio.StreamWriter]
]:
    async with listening(secure=False, unmasked=unmasked) as (port, made):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        websocket, owner = await made.get()
        yield websocket, owner, reader, writer
        writer.close()
        websocket.abort()


TEXT, CONT, PING, CLOSE = Opcode.TEXT, Opcode.CONT, Opcode.PING, Opcode.CLOSE
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


@pytest.mark.parametrize("bytewise", [True, False])
@on_both_loops
async def test_close_may_come_between_fragments(bytewise: bool) -> None:
    """RFC 6455 §5.4: it is a control frame like Ping."""
    async with by_hand() as (_, owner, reader, writer):
        data = client_frame(TEXT, b"<", fin=False) + client_frame(CLOSE, struct.pack("!H", 1000))
        data += client_frame(CONT, b"a/>")
        for at in range(0, len(data), 1 if bytewise else len(data)):
            writer.write(data[at : at + (1 if bytewise else len(data))])
            await asyncio.sleep(0)

        assert close_code_in(await reader.read()) == 1000
        assert (await owner.closes.get())[0] == 1000
        assert owner.messages.empty()


@on_both_loops
async def test_a_close_reason_that_is_no_utf8_is_1007() -> None:
    async with by_hand() as (_, owner, reader, writer):
        writer.write(client_frame(CLOSE, struct.pack("!H", 1000) + b"\xff"))

        assert close_code_in(await reader.read()) == 1007
        assert (await owner.closes.get())[0] == 1007


@on_both_loops
async def test_an_announced_size_over_the_limit_is_refused_at_once() -> None:
    async with by_hand() as (_, owner, reader, writer):
        writer.write(b"\x81\xff" + struct.pack("!Q", 2**62) + b"\0\0\0\0")

        assert close_code_in(await reader.read()) == 1009
        assert (await owner.closes.get())[0] == 1009


@on_both_loops
async def test_frames_behind_close_are_ignored() -> None:
    async with by_hand() as (_, owner, reader, writer):
        close = client_frame(CLOSE, struct.pack("!H", 1000))
        writer.write(client_frame(TEXT, b"in") + close + client_frame(TEXT, b"out"))

        assert close_code_in(await reader.read()) == 1000
        assert await owner.closes.get() == (1000, "")
        assert owner.messages.qsize() == 1


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
