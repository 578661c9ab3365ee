"""How a WebSocket opens and does not (RFC 6455 §4, RFC 7395 §3.1), against running gateways.

WS-01 and WS-12 in both roles, and what is tried on a public HTTPS port.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.utils import accept_key

from loadtest.stage.addresses import WEBSOCKET_PORT
from loadtest.stage.gateway import Gateway
from loadtest.stage.peers import XmppProxyPeer
from loadtest.stage.processes import eventually
from loadtest.stage.stage import CAPULET, Stage
from loadtest.stage.users import User

HOST = f"gw.{CAPULET}"
UPGRADE = {
    "Host": HOST,
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "xmpp",
}


def request(line: str = "GET /xmpp-s2s HTTP/1.1", **changes: str) -> bytes:
    headers = UPGRADE | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([line, *lines, "", ""]).encode()


async def open_tls(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return await asyncio.open_connection(gateway.address, WEBSOCKET_PORT, ssl=context)


async def answer(gateway: Gateway, data: bytes) -> bytes:
    """The head of the answer; a connection that was refused has to end by itself."""
    reader, writer = await open_tls(gateway)
    writer.write(data)
    try:
        async with asyncio.timeout(4):
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101 "):
                await reader.read()
    finally:
        writer.close()
    return head


REFUSED = {
    "ws-01 no subprotocol": (request(Sec_WebSocket_Protocol=""), 400),
    "ws-01 another subprotocol": (request(Sec_WebSocket_Protocol="mqtt, stomp"), 400),
    "an older version": (request(Sec_WebSocket_Version="8"), 426),
    "two versions": (request(Sec_WebSocket_Version="13\r\nSec-WebSocket-Version: 8"), 426),
    "no upgrade": (request(Upgrade="", Connection=""), 426),
    "no key": (request(Sec_WebSocket_Key=""), 400),
    "a page's origin": (request(Origin="https://evil.example"), 403),
    "a local page's origin": (request(Origin="null"), 403),
    "an origin without TLS": (request(Origin=f"http://{HOST}"), 403),
    "another path": (request("GET /other HTTP/1.1"), 404),
    "a way around the path": (request("GET /x/../xmpp-s2s HTTP/1.1"), 404),
    "POST": (request("POST /xmpp-s2s HTTP/1.1"), 405),
    "HTTP/1.0": (request("GET /xmpp-s2s HTTP/1.0"), 505),
    "no host": (request(Host=""), 400),
    "a long header": (request(Cookie="x" * 9000), 431),
    "many headers": (request(**{f"x{number}": "1" for number in range(200)}), 431),
    "headers without end": (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 3000, 431),
    "a long line": (b"GET /" + b"x" * 20_000, 414),
    # CVE-2021-32640: a pattern that went back over it again and again.
    "protocols to chew on": (request(Sec_WebSocket_Protocol="a" + " " * 8000 + "b"), 400),
    "frames before the answer": (request() + b"\x81\x80\0\0\0\0", 400),
    "a second request": (request() + request(), 400),
    "SMTP": (b"EHLO mail.example\r\n\r\n", 400),
    "a stream without a WebSocket": (b"<stream:stream xmlns='jabber:server'>\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_let_in(stage: Stage, case: str) -> None:
    data, status = REFUSED[case]
    head = await answer(stage.capulet_gateway, data)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in head
    if status == 426:
        assert b"\r\nSec-WebSocket-Version: 13\r\n" in head or case == "no upgrade"


LET_IN = {
    "ws-01 the subprotocol": {},
    "ws-01 the subprotocol among others": {"Sec_WebSocket_Protocol": "mqtt, xmpp"},
    "ws-12 compression": {"Sec_WebSocket_Extensions": "permessage-deflate; client_no_context"},
    "an origin as xmpp-proxy sends it": {"Origin": f"https://{HOST}"},
    "with the port": {"Origin": f"https://{HOST}:443"},
    "of the published URL": {"Origin": f"https://{HOST}", "Host": "10.0.0.1:8443"},
    "a query": {"line": "GET /xmpp-s2s?x=y HTTP/1.1"},
}


@pytest.mark.parametrize("case", LET_IN)
async def test_what_is_let_in(stage: Stage, case: str) -> None:
    head = await answer(stage.capulet_gateway, request(**LET_IN[case]))
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Protocol: xmpp\r\n" in head
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert b"extensions" not in head.lower()


async def test_who_does_not_come_to_the_point_is_cut_after_five_seconds(stage: Stage) -> None:
    gateway = stage.capulet_gateway
    plain = await asyncio.open_connection(gateway.address, WEBSOCKET_PORT)
    half_tls = await asyncio.open_connection(gateway.address, WEBSOCKET_PORT)
    half_tls[1].write(b"\x16\x03\x01\x02\x00\x01")
    silent = await open_tls(gateway)
    trickling = await open_tls(gateway)

    async def trickle() -> None:
        for byte in request():
            trickling[1].write(bytes((byte,)))
            await asyncio.sleep(0.2)

    async def lifetime(reader: asyncio.StreamReader) -> float:
        started = time.monotonic()
        try:
            async with asyncio.timeout(15):
                assert await reader.read() == b""
        except ConnectionResetError:
            pass
        return time.monotonic() - started

    slow = asyncio.create_task(trickle())
    ends = (plain, half_tls, silent, trickling)
    lifetimes = await asyncio.gather(*(lifetime(reader) for reader, _ in ends))
    slow.cancel()
    for _, writer in ends:
        writer.close()
    assert all(3 < seconds < 10 for seconds in lifetimes), lifetimes


# The connecting role.


class OddServer(XmppProxyPeer):
    """Answers the gateway's request in its own way, and remembers it and what follows."""

    answers: tuple[tuple[str, str | None], ...] = ()
    status = 101

    def __init__(self, stage: Stage, domain: str, number: int) -> None:
        super().__init__(domain, stage.actor_address(number), stage.authority.issue(domain))
        self.requests: list[Request] = []

    def is_left(self) -> bool:
        return all(wire.protocol.state is State.CLOSED for wire in self.wires)

    def respond(self, request: Request) -> Response | None:
        response = super().respond(request)
        if response is not None:
            return response
        self.requests.append(request)
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": accept_key(request.headers["Sec-WebSocket-Key"]),
            "Sec-WebSocket-Protocol": "xmpp",
        }
        for name, value in self.answers:
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
        return Response(self.status, "", Headers(headers))


ODD_ANSWERS: dict[str, tuple[int, list[tuple[str, str | None]]]] = {
    "ws-01 no subprotocol": (101, [("Sec-WebSocket-Protocol", None)]),
    "ws-01 another subprotocol": (101, [("Sec-WebSocket-Protocol", "mqtt")]),
    "ws-12 compression": (101, [("Sec-WebSocket-Extensions", "permessage-deflate")]),
    "another key's answer": (101, [("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]),
    "another protocol": (101, [("Upgrade", "h2c")]),
    "elsewhere": (302, [("Location", "wss://127.0.0.1/xmpp-s2s")]),
    "200": (200, []),
}


@pytest_asyncio.fixture(loop_scope="session", params=[None, *ODD_ANSWERS])
async def odd(request: pytest.FixtureRequest, stage: Stage) -> AsyncIterator[OddServer]:
    """A domain of its own for each answer, as a failed one is not asked again for a while."""
    cases = [None, *ODD_ANSWERS]
    number = cases.index(request.param)
    server = OddServer(stage, f"odd{number}.example", 160 + number)
    server.status, server.answers = ODD_ANSWERS.get(request.param, (101, []))
    stage.dns.set(server.domain, "A", server.address)
    await server.start()
    yield server
    await server.stop()
    stage.dns.remove(server.domain)


async def test_the_gateway_asks_for_what_it_needs_and_takes_nothing_else(
    odd: OddServer, juliet: User
) -> None:
    juliet.send(f"paris@{odd.domain}", "are you there?")
    await eventually(lambda: odd.requests, within=10, what=f"a request to {odd.domain}")
    headers = odd.requests[0].headers
    assert headers.get_all("Sec-WebSocket-Protocol") == ["xmpp"]
    assert headers.get_all("Sec-WebSocket-Version") == ["13"]
    assert headers["Host"] == odd.domain
    assert "Sec-WebSocket-Extensions" not in headers
    if not odd.answers and odd.status == 101:
        await odd.next_stanza("are you there?")
        return
    # It has seen the answer, and leaves without a word.
    await eventually(odd.is_left, within=10, what=f"the gateway leaves {odd.domain}")
    assert not odd.log
