"""The PROXY protocol before TLS: both versions, whole or in pieces, and what only looks like it."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.config import Limits
from tests.workers.gateway.wire_bench import RecordingWebSocketOwner, mint, on_both_loops
from workers.gateway.acceptor import Acceptor
from workers.gateway.admission import Admission
from workers.gateway.forwarded import TrustedProxies
from workers.gateway.proxy_protocol import MAX_HEADER, InvalidProxyHeader, read_header
from workers.gateway.refusals import Refusals
from workers.gateway.tls import client_context, server_context
from workers.gateway.tls_engine import TLSEngine
from workers.gateway.turns import Turns
from workers.gateway.websocket_accept import AcceptedWebSocket, Endpoint

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
SERVER, CLIENT = mint("gw.example"), mint("a.example")


def version_2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def over(family: int, address: str, more: bytes = b"") -> bytes:
    packed = socket.inet_pton(socket.AF_INET if family == 0x11 else socket.AF_INET6, address)
    return version_2(0x21, family, packed * 2 + b"\x10\x00\x01\xbb" + more)


HEADERS = {
    b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 443\r\n": "203.0.113.5",
    b"PROXY TCP6 2001:DB8::5 2001:db8::1 4711 443\r\n": "2001:db8::5",
    b"PROXY UNKNOWN\r\n": "",
    b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n": "",
    over(0x11, "203.0.113.5"): "203.0.113.5",
    over(0x21, "2001:db8::5"): "2001:db8::5",
    over(0x11, "203.0.113.5", b"\x04\x00\x03abc"): "203.0.113.5",  # a TLV behind
    version_2(0x20, 0x00, b""): "",  # a health check
    version_2(0x21, 0x31, b"\0" * 216): "",  # a unix socket
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_is_read_whole_or_in_pieces(header: bytes) -> None:
    rest = b"\x16\x03\x01"
    assert read_header(header + rest) == (len(header), HEADERS[header])
    for size in range(len(header)):
        assert read_header(header[:size]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 203.0.113.5 192.0.2.1 4711\r\n",
        b"PROXY TCP4 proxy.example 192.0.2.1 4711 443\r\n",
        b"PROXY UDP4 203.0.113.5 192.0.2.1 4711 443\r\n",
        b"PROXY " + b"x" * 107,
        b"PROXY  \r\n",
        version_2(0x31, 0x11, b"\0" * 12),
        version_2(0x22, 0x11, b"\0" * 12),
        version_2(0x21, 0x11, b"\0" * 11),
        version_2(0x21, 0x11, b"\0" * MAX_HEADER),
    ],
)
def test_what_only_begins_like_it_is_an_error(data: bytes) -> None:
    with pytest.raises(InvalidProxyHeader):
        read_header(data)


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"GET / HTTP/1.1", b"POST /", b"\r\nGET", b"X"])
def test_tls_and_http_are_no_header(data: bytes) -> None:
    assert read_header(data) == (0, "")


@given(st.sampled_from([b"", b"PROXY ", SIGNATURE]), st.binary(max_size=300))
def test_any_bytes_are_a_header_or_an_error(signature: bytes, data: bytes) -> None:
    try:
        found = read_header(signature + data)
    except InvalidProxyHeader:
        return
    assert found is None or 0 <= found[0] <= len(signature + data)


# On a listener.


@asynccontextmanager
async def listening(
    *,
    trusted: str = "127.0.0.1/32",
    admission: Admission | None = None,
    secure: bool = True,
    turns: Turns | None = None,
) -> AsyncIterator[tuple[int, list[AcceptedWebSocket]]]:
    opened: list[AcceptedWebSocket] = []

    def new_owner(websocket: AcceptedWebSocket) -> RecordingWebSocketOwner:
        opened.append(websocket)
        return RecordingWebSocketOwner()

    endpoint = Endpoint(
        path="/s2s",
        new_owner=new_owner,
        context=server_context(SERVER) if secure else None,
        proxies=TrustedProxies((trusted,), "Client-Cert"),
        turns=turns or Turns(),
    )
    clock = asyncio.get_running_loop().time
    admission = admission or Admission(Limits, Refusals(clock), clock)
    acceptor = Acceptor(admission, lambda entry: AcceptedWebSocket(endpoint, entry).channel)
    sock = socket.create_server(("127.0.0.1", 0))
    acceptor.start([sock])
    try:
        yield sock.getsockname()[1], opened
    finally:
        for websocket in opened:
            websocket.abort()
        acceptor.stop()


REQUEST = (
    b"GET /s2s HTTP/1.1\r\nHost: gw.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: xmpp\r\nX-Forwarded-For: 198.51.100.1\r\nClient-Cert: forged\r\n\r\n"
)


async def upgrade(port: int, header: bytes) -> bytes:
    """What a peer reads that comes through a TCP proxy: TLS is its own, end to end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tls = TLSEngine(client_context(CLIENT), server=False)
    tls.handshake()
    writer.write(header + tls.data_to_send())  # both in one read
    answer = b""
    try:
        while b"\r\n\r\n" not in answer and (data := await reader.read(65536)):
            was_established = tls.established
            answer += tls.receive(data)
            if tls.established and not was_established:
                tls.send(REQUEST)
            writer.write(tls.data_to_send())
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return answer


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (over(0x11, "203.0.113.5"), "203.0.113.5"),
        (over(0x11, "127.0.0.1"), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ],
)
@on_both_loops
async def test_a_passed_through_peer_is_known_by_its_own_address_and_certificate(
    header: bytes, address: str
) -> None:
    async with listening() as (port, opened):
        answer = await upgrade(port, header)

        assert answer.startswith(b"HTTP/1.1 101 ")
        [websocket] = opened
        # Its headers are its own words, not the proxy's.
        assert websocket.peer_address == address
        assert websocket.peer_chain() == [*CLIENT.chain]


class CountedTurns(Turns):
    count = 0

    def wait(self, step: Callable[[], None]) -> None:
        self.count += 1
        super().wait(step)


@on_both_loops
async def test_the_handshake_of_a_passed_through_peer_takes_its_turns() -> None:
    turns = CountedTurns()
    async with listening(turns=turns) as (port, _):
        await upgrade(port, over(0x11, "203.0.113.5"))

    assert turns.count >= 2  # one for the ClientHello, which came with the header


@on_both_loops
async def test_a_proxy_that_does_not_speak_it_is_heard_by_its_headers() -> None:
    async with listening() as (port, opened):
        answer = await upgrade(port, b"")

        assert answer.startswith(b"HTTP/1.1 400 ")  # the certificate is no certificate
        assert not opened


@on_both_loops
async def test_a_proxy_may_end_tls_and_pass_the_rest_through() -> None:
    async with listening(secure=False) as (port, opened):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(over(0x21, "2001:db8::5") + REQUEST)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()

        assert answer.startswith(b"HTTP/1.1 101 ")
        [websocket] = opened
        assert (websocket.peer_address, websocket.peer_chain()) == ("2001:db8::5", [])


@on_both_loops
async def test_from_others_the_header_is_no_tls() -> None:
    async with listening(trusted="192.0.2.1/32") as (port, opened):
        assert await upgrade(port, over(0x11, "203.0.113.5")) == b""
        assert not opened


@on_both_loops
async def test_a_broken_header_ends_the_connection() -> None:
    async with listening() as (port, opened):
        assert await upgrade(port, b"PROXY TCP9 x\r\n") == b""
        assert not opened


@on_both_loops
async def test_strangers_are_counted_where_they_come_from() -> None:
    clock = asyncio.get_running_loop().time
    limits = Limits(unauthenticated_per_address=1)
    admission = Admission(lambda: limits, Refusals(clock), clock, proxies=("127.0.0.1/32",))
    admission.enter("203.0.113.5")
    async with listening(admission=admission) as (port, _):
        addresses = ["203.0.113.5", "203.0.113.6"]
        answers = [await upgrade(port, over(0x11, address)) for address in addresses]

    assert [answer[9:12] for answer in answers] == [b"", b"101"]
