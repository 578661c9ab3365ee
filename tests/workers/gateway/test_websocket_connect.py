"""How we connect to WebSockets, and what we do not accept from the other end."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import websockets
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers

from tests.workers.gateway.wire_bench import (
    RecordingWebSocketOwner,
    mint,
    mint_pem,
    on_both_loops,
    python_context,
)
from workers.gateway.channel import Channel
from workers.gateway.tls import client_context
from workers.gateway.websocket import WebSocket
from workers.gateway.websocket_connect import WebSocketFailed, connect

CLIENT = mint("a.example")


def open_to(port: int, owner: RecordingWebSocketOwner, **options: object) -> object:
    settings: dict[str, object] = {"context": client_context(CLIENT), "timeout": 5.0}
    url = f"wss://gw.example:{port}/s2s?a=b"
    return connect(url, owner, address=("127.0.0.1", port), **settings | options)  # type: ignore[arg-type]


@asynccontextmanager
async def raw_server(
    response: bytes, *, secure: bool = False
) -> AsyncIterator[tuple[int, "asyncio.Queue[bytes]"]]:
    """A server that reads a request and answers these bytes."""
    requests: asyncio.Queue[bytes] = asyncio.Queue()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            requests.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            writer.write(response)
            if response:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        writer.close()

    context = python_context(server=True, pem=mint_pem(["gw.example"])) if secure else None
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_the_library_accepts_our_handshake(version: ssl.TLSVersion) -> None:
    seen: list[tuple[str, Headers, str | None]] = []

    async def handler(peer: ServerConnection) -> None:
        assert peer.request is not None
        seen.append((peer.request.path, peer.request.headers, peer.subprotocol))
        await peer.wait_closed()

    names: list[str | None] = []
    context = python_context(server=True, pem=mint_pem(["gw.example"]), version=version)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with websockets.serve(
        handler,
        "127.0.0.1",
        0,
        ssl=context,
        subprotocols=["xmpp"],  # type: ignore[list-item]
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        owner = RecordingWebSocketOwner()
        websocket: WebSocket = await open_to(port, owner, headers={"X-Instance": "1"})  # type: ignore[misc]
        assert websocket.is_open
        assert websocket.channel.tls_summary().startswith(version.name.replace("_", "."))
        websocket.close()
        await owner.closes.get()

    path, headers, subprotocol = seen[0]
    assert (path, subprotocol) == ("/s2s?a=b", "xmpp")
    assert headers["Host"] == f"gw.example:{port}"
    assert headers["X-Instance"] == "1"
    assert "Origin" not in headers and "Sec-WebSocket-Extensions" not in headers
    assert names == ["gw.example"]


def refuse(_channel: Channel) -> None:
    raise WebSocketFailed("certificate expired")


@on_both_loops
async def test_a_server_that_is_refused_gets_no_request() -> None:
    async with raw_server(b"", secure=True) as (port, requests):
        with pytest.raises(WebSocketFailed, match="certificate expired"):
            await open_to(port, RecordingWebSocketOwner(), verify=refuse)  # type: ignore[misc]
        assert requests.empty()


FAILURES: dict[str, tuple[bytes, str]] = {
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: wss://x.example/\r\n\r\n", "302 Found"),
    "missing": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000000\r\n\r\n", "404 Not Found"),
    "not HTTP": (b"<stream:error/>\r\n\r\n", "<stream:error/>"),
    "wrong accept": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: xmpp\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
        "Sec-WebSocket-Accept",
    ),
    "no upgrade": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "Connection"),
    "endless": (b"HTTP/1.1 101 Switching Protocols\r\n" + b"x: y\r\n" * 3000, "bytes of headers"),
    "nothing": (b"", "ended the connection"),
}


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("case", FAILURES)
@on_both_loops
async def test_a_bad_response_fails_with_its_reason(case: str, secure: bool) -> None:
    response, reason = FAILURES[case]
    async with raw_server(response, secure=secure) as (port, _):
        with pytest.raises(WebSocketFailed, match=reason):
            await connect(
                f"{'wss' if secure else 'ws'}://gw.example:{port}/",
                RecordingWebSocketOwner(),
                address=("127.0.0.1", port),
                context=client_context() if secure else None,
            )


@on_both_loops
async def test_a_server_without_the_subprotocol_fails() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.wait_closed()

    async with websockets.serve(handler, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(WebSocketFailed, match="subprotocol xmpp"):
            await connect(
                f"ws://gw.example:{port}/",
                RecordingWebSocketOwner(),
                address=("127.0.0.1", port),
                context=None,
            )


@on_both_loops
async def test_a_silent_server_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        owner = RecordingWebSocketOwner()
        with pytest.raises(WebSocketFailed, match=r"no WebSocket within 0\.02 s"):
            await open_to(sock.getsockname()[1], owner, timeout=0.02)  # type: ignore[misc]
        assert owner.closes.empty()


@on_both_loops
async def test_a_cancelled_attempt_leaves_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        attempt = asyncio.ensure_future(open_to(port, RecordingWebSocketOwner()))  # type: ignore[call-overload]
        sock.setblocking(False)
        peer, _ = await asyncio.get_running_loop().sock_accept(sock)
        await asyncio.get_running_loop().sock_recv(peer, 10)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        with peer:
            while await asyncio.get_running_loop().sock_recv(peer, 10000):
                pass


@on_both_loops
async def test_a_refused_connection_and_no_tls_fail_with_their_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(WebSocketFailed, match="cannot connect: "):
        await open_to(port, RecordingWebSocketOwner())  # type: ignore[misc]


@on_both_loops
async def test_a_server_that_speaks_no_tls_fails_with_the_reason() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        with pytest.raises(WebSocketFailed, match="TLS handshake: "):
            await open_to(server.sockets[0].getsockname()[1], RecordingWebSocketOwner())  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "context"),
    [
        ("ws://x.example/", client_context),
        ("wss://x.example/", lambda: None),
        ("https://x.example/", client_context),
        ("wss:///", client_context),
    ],
)
@on_both_loops
async def test_urls_that_do_not_fit_are_refused(url: str, context: Callable[[], object]) -> None:
    with pytest.raises(WebSocketFailed):
        await connect(
            url,
            RecordingWebSocketOwner(),
            address=("127.0.0.1", 9),
            context=context(),  # type: ignore[arg-type]
        )
