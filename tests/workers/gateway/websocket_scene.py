"""WebSockets that are open: against the `websockets` library, or a client's hand-made bytes."""

import asyncio
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

from tests.workers.gateway.wire_bench import RecordingWebSocketOwner, mint, mint_pem, python_context
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.tls import client_context, server_context
from workers.gateway.websocket import WebSocket
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint, serve
from workers.gateway.websocket_connect import connect

SERVER_PEM = mint_pem(["gw.example"])
SERVER = mint("gw.example")
MAX_MESSAGE = 100_000
XMPP = [Subprotocol("xmpp")]
TEXT, CONT, PING, CLOSE = Opcode.TEXT, Opcode.CONT, Opcode.PING, Opcode.CLOSE


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
