"""How WebSockets are accepted and how they are not."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import websockets
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from coordinator.config import Limits
from tests.workers.gateway.wire_bench import (
    RecordingWebSocketOwner,
    mint,
    on_both_loops,
    python_context,
)
from workers.gateway import websocket_accept
from workers.gateway.acceptor import Acceptor
from workers.gateway.admission import Admission
from workers.gateway.channel import Channel
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.refusals import Refusals
from workers.gateway.tls import client_context, server_context
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint, serve
from workers.gateway.websocket_connect import connect

SERVER = mint("gw.example")
CLIENT = mint("a.example")


class Listener:
    def __init__(self, *, secure: bool = False) -> None:
        self.opened: list[tuple[AcceptedWebSocket, RecordingWebSocketOwner]] = []
        self.port = 0
        self.endpoint = Endpoint(
            path="/s2s",
            new_owner=self._new_owner,
            context=server_context(SERVER) if secure else None,
            proxies=TrustedProxies(("127.0.0.1/32",), "Client-Cert"),
            origin="https://public.example",
            http_responder=self._respond,
        )

    def _new_owner(self, websocket: AcceptedWebSocket) -> RecordingWebSocketOwner:
        self.opened.append((websocket, RecordingWebSocketOwner()))
        return self.opened[-1][1]

    def _respond(self, request: Request) -> Response | None:
        if request.path != "/.well-known/host-meta.json":
            return None
        return Response(200, "OK", Headers({"Content-Type": "application/json"}), b'{"xmpp":{}}')


@asynccontextmanager
async def listening(*, secure: bool = False) -> AsyncIterator[Listener]:
    listener = Listener(secure=secure)
    sock = socket.create_server(("127.0.0.1", 0))
    listener.port = sock.getsockname()[1]
    server = await serve(listener.endpoint, sock)
    try:
        yield listener
    finally:
        for websocket, _ in listener.opened:
            websocket.abort()
        server.close()


async def answer(listener: Listener, request: bytes) -> bytes:
    """What a client that sends these bytes reads until the end."""
    context = python_context(server=False) if listener.endpoint.context is not None else None
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=context)
    writer.write(request)
    response = await reader.read()
    writer.close()
    return response


UPGRADE = {
    "Host": "gw.example",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "xmpp",
}


def request(line: str = "GET /s2s HTTP/1.1", **changes: str) -> bytes:
    headers = UPGRADE | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([line, *lines, "", ""]).encode()


PLAIN = {"Upgrade": "", "Connection": ""}
REFUSED = {
    "wrong path": (request("GET /other HTTP/1.1"), 404),
    "no upgrade on the path": (request(**PLAIN), 426),
    "no subprotocol": (request(Sec_WebSocket_Protocol=""), 400),
    "another subprotocol": (request(Sec_WebSocket_Protocol="mqtt"), 400),
    "old version": (request(Sec_WebSocket_Version="8"), 426),
    "no key": (request(Sec_WebSocket_Key=""), 400),
    "short key": (request(Sec_WebSocket_Key="YWJj"), 400),
    "HTTP/1.0": (request("GET /s2s HTTP/1.0"), 505),
    "POST": (request("POST /s2s HTTP/1.1"), 405),
    "DELETE elsewhere": (request("DELETE /x HTTP/1.1", **PLAIN), 405),
    "a browser's origin": (request(Origin="https://evil.example"), 403),
    "an opaque origin": (request(Origin="null"), 403),
    "two origins": (request(Origin="https://gw.example\r\nOrigin: https://evil.example"), 403),
    "an empty origin": (request(Origin=" "), 403),
    "two certificates": (request(Client_Cert=":MAA=:\r\nClient-Cert: :MAA=:"), 400),
    "a certificate in another format": (request(Client_Cert="MAA="), 400),
    "no host": (request(Host=""), 400),
    "two hosts": (request(Host="gw.example\r\nHost: evil.example"), 400),
    "a body": (request("POST /s2s HTTP/1.1", Content_Length="5") + b"hello", 400),
    "bytes behind the request": (request() + b"\x81\x80", 400),
    "not HTTP": (b"EHLO mail.example\r\n\r\n", 400),
    "a stream header": (b"<stream:stream xmlns='jabber:server'>\r\n\r\n", 400),
    "a long request line": (request("GET /" + "x" * 9000 + " HTTP/1.1"), 414),
    "a long header": (request(Cookie="x" * 9000), 431),
    "many headers": (request(**{f"x{n}": "1" for n in range(200)}), 431),
    "headers without end": (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 3000, 431),
    "endless line": (b"x" * 20000, 414),
}


@pytest.mark.parametrize("case", REFUSED)
@on_both_loops
async def test_what_is_refused_gets_the_right_status(case: str) -> None:
    data, status = REFUSED[case]
    async with listening() as listener:
        response = await answer(listener, data)

        assert response.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in response
        assert not listener.opened


@on_both_loops
async def test_the_accepted_version_is_named() -> None:
    async with listening() as listener:
        response = await answer(listener, request(Sec_WebSocket_Version="8"))

    assert b"\r\nSec-WebSocket-Version: 13\r\n" in response


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://gw.example", "gw.example"),
        ("https://gw.example:443", "gw.example"),
        ("https://gw.example:8443", "gw.example:8443"),
        ("HTTPS://GW.example", "gw.EXAMPLE:443"),
        ("https://public.example", "127.0.0.1:8080"),
    ],
)
@on_both_loops
async def test_a_server_may_send_its_own_origin(origin: str, host: str) -> None:
    async with listening() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(request(Origin=origin, Host=host))
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Protocol: xmpp\r\n" in head
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert b"Extensions" not in head


@on_both_loops
async def test_more_subprotocols_and_extensions_are_offered_in_vain() -> None:
    async with (
        listening(secure=True) as listener,
        websockets.connect(
            f"wss://localhost:{listener.port}/s2s?query=1",
            host="127.0.0.1",
            ssl=python_context(server=False),
            subprotocols=["other", "xmpp"],  # type: ignore[list-item]
            proxy=None,
        ) as peer,
    ):
        assert peer.subprotocol == "xmpp"
        assert peer.protocol.extensions == []
        websocket, owner = listener.opened[0]
        assert websocket.request is not None and websocket.request.path == "/s2s?query=1"
        assert owner.headers["Host"] == f"localhost:{listener.port}"


@on_both_loops
async def test_other_paths_are_answered_by_the_responder() -> None:
    async with listening(secure=True) as listener:
        get = await answer(listener, request("GET /.well-known/host-meta.json HTTP/1.1", **PLAIN))
        head = await answer(listener, request("HEAD /.well-known/host-meta.json HTTP/1.1", **PLAIN))
        absent = await answer(listener, request("GET / HTTP/1.1", **PLAIN))

    assert get.startswith(b"HTTP/1.1 200 OK\r\n") and get.endswith(b'\r\n\r\n{"xmpp":{}}')
    assert b"\r\nContent-Length: 11\r\n" in get
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and head.endswith(b"\r\n\r\n")
    assert absent.startswith(b"HTTP/1.1 404 ")


@on_both_loops
async def test_a_draining_endpoint_says_503() -> None:
    async with listening() as listener:
        listener.endpoint.accepting = False

        assert (await answer(listener, request())).startswith(b"HTTP/1.1 503 ")


@on_both_loops
async def test_without_tls_only_a_trusted_proxy_may_open_one() -> None:
    async with listening() as listener:
        listener.endpoint.proxies = TrustedProxies(("192.0.2.0/24",))
        response = await answer(listener, request(X_Forwarded_For="192.0.2.1"))
        document = await answer(
            listener, request("GET /.well-known/host-meta.json HTTP/1.1", **PLAIN)
        )

    assert response.startswith(b"HTTP/1.1 403 ")
    assert not listener.opened
    assert document.startswith(b"HTTP/1.1 200 ")


@on_both_loops
async def test_peers_behind_a_proxy_are_counted_one_by_one() -> None:
    async with listening() as listener:
        clock = asyncio.get_running_loop().time
        limits = Limits(unauthenticated_per_address=1)
        networks = ("127.0.0.1/32",)
        admission = Admission(lambda: limits, Refusals(clock), clock, proxies=networks)
        acceptor = Acceptor(
            admission, lambda entry: AcceptedWebSocket(listener.endpoint, entry).channel
        )
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        acceptor.start([sock])
        writers = []
        for peer, status in (("203.0.113.5", 101), ("203.0.113.5", 429), ("203.0.113.6", 101)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(request(X_Forwarded_For=peer))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
        assert [websocket.peer_address for websocket, _ in listener.opened] == [
            "203.0.113.5",
            "203.0.113.6",
        ]
        for websocket, _ in listener.opened:
            assert websocket.is_behind_proxy
            websocket.admitted(100_000)
        for writer in writers:
            writer.close()
        acceptor.stop()
        assert not admission.strangers


@pytest.mark.parametrize("data", [b"", b"GET /s2s HTTP/1.1\r\n", b"\x16\x03\x01"])
@pytest.mark.parametrize("secure", [True, False])
@on_both_loops
async def test_a_handshake_that_does_not_come_is_cut(data: bytes, secure: bool) -> None:
    websocket_accept.HANDSHAKE_TIMEOUT = 0.02
    try:
        async with listening(secure=secure) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(data)
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass  # cut before it had read that
            writer.close()
    finally:
        websocket_accept.HANDSHAKE_TIMEOUT = 5.0


@pytest.mark.parametrize("garbage", [b"GET /s2s HTTP/1.1\r\nHost: x\r\n\r\n", bytes(300)])
@on_both_loops
async def test_what_is_no_tls_on_the_tls_port_is_ended(garbage: bytes) -> None:
    async with listening(secure=True) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(garbage)

        assert b"HTTP" not in await reader.read()
        writer.close()


@on_both_loops
async def test_an_abrupt_end_in_the_handshake_is_nothing() -> None:
    async with listening() as listener:
        for data in (b"", b"GET", request()[:-1]):
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(data)
            writer.transport.abort()
        assert (await answer(listener, request("GET / HTTP/1.1"))).startswith(b"HTTP/1.1 404")


@on_both_loops
async def test_both_roles_of_ours_know_each_others_certificates() -> None:
    async with listening(secure=True) as listener:
        judged: list[Channel] = []
        owner = RecordingWebSocketOwner()
        websocket = await connect(
            f"wss://gw.example:{listener.port}/s2s?a=b",
            owner,
            address=("127.0.0.1", listener.port),
            context=client_context(CLIENT),
            verify=judged.append,
            server_name="sni.example",
        )
        # The path has a query: the endpoint does not mind.
        accepted, _ = listener.opened[0]

        assert accepted.channel.peer_chain() == [*CLIENT.chain]
        assert judged == [websocket.channel]
        assert websocket.channel.peer_chain() == [*SERVER.chain]
        websocket.close()
        await owner.closes.get()
