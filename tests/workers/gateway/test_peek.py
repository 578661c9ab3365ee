import asyncio
import contextlib
import socket
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.gateway.tcp import tcp_pair
from workers.gateway.peek import Peeked, PeekFailed, find_header, peek_header

NAMESPACES = (
    "xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "
    "xmlns:db='jabber:server:dialback'"
)
# As the two stock servers write them (attach.md B).
PROSODY = (
    "<?xml version='1.0'?><stream:stream from='capulet.example' to='montague.example' id='' "
    f"version='1.0' xml:lang='en' {NAMESPACES}>"
).encode()
EJABBERD = (
    "<?xml version='1.0'?><stream:stream version='1.0' xml:lang='en' "
    f"to='capulet.example' from='montague.example' {NAMESPACES}>"
).encode()


@pytest.fixture
def pair():
    near, far = tcp_pair()
    yield near, far
    near.close()
    far.close()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (PROSODY, Peeked("capulet.example", "montague.example")),
        (EJABBERD, Peeked("montague.example", "capulet.example")),
        (
            PROSODY.replace(b"'capulet.example'", b'"CAPULET.example."'),
            Peeked("capulet.example", "montague.example"),
        ),
        (
            PROSODY.replace(b"montague.example", "b\u00fccher.example".encode()),
            Peeked("capulet.example", "xn--bcher-kva.example"),
        ),
        (
            b"\n " + EJABBERD[len("<?xml version='1.0'?>") :],
            Peeked("montague.example", "capulet.example"),
        ),
        (PROSODY + b"<starttls/><x", Peeked("capulet.example", "montague.example")),
    ],
)
def test_headers_of_servers_are_found(header, expected):
    assert find_header(header) == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "direct TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "not a stream header"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + EJABBERD, "declaration"),
        (b"<?xml version='1.0'?> <!-- x -->", "comment"),
        (b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing-server'/>", "instead of a stream"),
        (PROSODY.replace(b"from='capulet.example'", b""), "no 'from'"),
        (PROSODY.replace(b"to='montague.example'", b""), "no 'to'"),
        (PROSODY.replace(b"capulet.example", b"-"), "is no domain"),
        (b"\xff\xfe\x00", "not a stream header"),
        (b"\x00", "not a stream header"),
    ],
)
def test_what_is_no_stream_header_is_named(data, words):
    with pytest.raises(PeekFailed, match=words):
        find_header(data)


@pytest.mark.parametrize("header", [PROSODY, EJABBERD])
def test_no_prefix_of_a_header_is_taken_for_one_or_refused(header):
    assert [find_header(header[:size]) for size in range(len(header))] == [None] * len(header)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: PROSODY[:90] + tail))
def test_any_bytes_give_a_header_nothing_or_a_reason(data):
    with contextlib.suppress(PeekFailed):
        find_header(data)


def test_white_space_without_end_costs_nothing():
    started = time.process_time()
    assert find_header(b" " * 8192) is None
    assert find_header(b"<?xml version='1.0'?>" + b"\n" * 8192) is None
    assert time.process_time() - started < 0.1


async def test_a_header_is_seen_and_every_byte_stays(pair):
    near, far = pair
    far.send(PROSODY)
    assert await peek_header(near) == Peeked("capulet.example", "montague.example")
    assert near.recv(65536) == PROSODY


async def test_a_header_in_many_pieces_costs_no_spinning(pair, monkeypatch):
    near, far = pair
    looks = 0
    original = find_header

    def counted(data):
        nonlocal looks
        looks += 1
        return original(data)

    monkeypatch.setattr("workers.gateway.peek.find_header", counted)
    waiting = asyncio.ensure_future(peek_header(near))
    for start in range(0, len(EJABBERD), 40):
        far.send(EJABBERD[start : start + 40])
        for _ in range(20):
            await asyncio.sleep(0)
    assert (await waiting).sender == "montague.example"
    assert looks <= len(EJABBERD) // 40 + 1
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


async def test_a_transport_takes_over_a_peeked_socket_on_the_same_loop(pair):
    near, far = pair
    far.send(PROSODY)
    await peek_header(near)
    reader, writer = await asyncio.open_connection(sock=near)
    assert await reader.readexactly(len(PROSODY)) == PROSODY
    writer.write(b"answer")
    await writer.drain()
    far.setblocking(True)
    assert await asyncio.to_thread(far.recv, 100) == b"answer"
    writer.close()
    await writer.wait_closed()


async def test_silence_ends_with_the_timeout(pair):
    near, far = pair
    far.send(PROSODY[:30])
    with pytest.raises(PeekFailed, match=r"within 0\.05 s"):
        await peek_header(near, timeout=0.05)
    assert near.recv(100) == PROSODY[:30]


@pytest.mark.parametrize("sent", [b"", PROSODY[:30]])
async def test_an_end_before_the_header_is_told(pair, sent):
    near, far = pair
    far.send(sent)
    waiting = asyncio.ensure_future(peek_header(near))
    await asyncio.sleep(0)
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(PeekFailed, match="closed before"):
        await waiting


async def test_a_reset_before_the_header_is_told(pair):
    near, far = pair
    waiting = asyncio.ensure_future(peek_header(near))
    await asyncio.sleep(0)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with pytest.raises(PeekFailed, match="connection lost"):
        await waiting


async def test_a_header_beyond_the_limit_is_refused(pair):
    near, far = pair
    far.send(PROSODY[:40] + b" " * 400)
    with pytest.raises(PeekFailed, match="first 256 bytes"):
        await peek_header(near, limit=256)


async def test_a_cancelled_peek_leaves_the_socket_usable(pair):
    near, far = pair
    waiting = asyncio.ensure_future(peek_header(near))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    far.send(EJABBERD)
    assert (await peek_header(near)).recipient == "capulet.example"
