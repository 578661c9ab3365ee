"""WS-01 to WS-12: what RFC 6455 and RFC 7395 §3 demand of a WebSocket, against running gateways.

Each rule in both roles where it has two: a peer that was let in breaks it towards the gateway that
accepted it, and one that the gateway has called. Autobahn|Testsuite (`make autobahn`) has more
frames, and no streams; what opens a WebSocket, and does not, is in test_websocket_openings.py.
"""

import os
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from loadtest.stage.peers import FRAMING, XmppProxyPeer
from loadtest.stage.processes import eventually
from loadtest.stage.stage import CAPULET, Stage
from loadtest.stage.users import User
from loadtest.stage.wire import Wire, WireClosed

PEER = "rules.example"
URL = f"wss://gw.{CAPULET}/xmpp-s2s"
TEXT, CONTINUATION, BINARY, CLOSE, PING, PONG = 0x1, 0x0, 0x2, 0x8, 0x9, 0xA


class End:
    """A peer's end of a session with capulet's gateway; its frames are the test's to form."""

    def __init__(self, wire: Wire, *, masks: bool) -> None:
        self.wire = wire
        self.masks = masks
        self.frames: list[Frame] = []
        wire.on_frame = self.frames.append

    def send(self, opcode: int, payload: bytes, *, fin: bool = True, bits: int = 0) -> None:
        """One frame; `bits` are RSV1, 2 and 3."""
        self.wire.send_bytes(frame(opcode, payload, fin=fin, bits=bits, masks=self.masks))

    async def code(self) -> int:
        """With which Close frame the gateway ends it; within five seconds."""
        try:
            while True:
                await self.wire.receive(5)
        except WireClosed as closed:
            return closed.code


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, bits: int = 0, masks: bool, length: int = -1
) -> bytes:
    """A frame byte by byte; `length` is what it claims, in the shortest form."""
    size = len(payload) if length < 0 else length
    mask = 0x80 if masks else 0
    first = (0x80 if fin else 0) | bits << 4 | opcode
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    key = os.urandom(4) if masks else b""
    return head + key + bytes(b ^ key[i % 4] if key else b for i, b in enumerate(payload))


def message(to: str, body: str) -> bytes:
    return (
        f"<message xmlns='jabber:server' from='paris@{PEER}/villa' to='{to}' type='chat'>"
        f"<body>{body}</body></message>"
    ).encode()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def peer(stage: Stage) -> AsyncIterator[XmppProxyPeer]:
    """A domain that capulet's gateway calls and is called by."""
    peer = XmppProxyPeer(PEER, stage.actor_address(150), stage.authority.issue(PEER))
    stage.dns.set(PEER, "A", peer.address)
    await peer.start()
    yield peer
    await peer.stop()
    stage.dns.remove(PEER)


@pytest_asyncio.fixture(loop_scope="session", params=["accepting", "connecting"])
async def end(
    request: pytest.FixtureRequest, stage: Stage, peer: XmppProxyPeer, juliet: User
) -> AsyncIterator[End]:
    """The peer's end; the parameter is the gateway's role."""
    if request.param == "accepting":
        wire = await peer.connect(URL, stage.capulet_gateway.address, CAPULET)
        yield End(wire, masks=True)
    else:
        juliet.send(f"paris@{PEER}", "are you there?")
        await peer.next_stanza("are you there?", within=20)
        wire = next(w for w in reversed(peer.wires) if w.protocol.state is State.OPEN)
        yield End(wire, masks=False)
    wire.end()


async def undisturbed(juliet: User) -> None:
    """Nothing of what was refused has arrived, and nothing else was harmed."""
    juliet.send(juliet.jid, "is anybody there?")
    await juliet.message("is anybody there?")
    assert not juliet.inbox.peek(lambda stanza: "evil" in stanza.body)


async def goes_on(end: End) -> None:
    """Wait until the gateway answers a Ping."""
    pongs = end.wire.pongs
    end.send(PING, b"still there?")
    await eventually(lambda: end.wire.pongs > pongs, within=5, what="a Pong")


def sent_by(end: End, *opcodes: int) -> list[Frame]:
    """Frames of the gateway's, of these kinds."""
    return [each for each in end.frames if each.opcode in opcodes]


async def test_ws_01_the_subprotocol_is_offered(peer: XmppProxyPeer, end: End) -> None:
    """Its refusal is tested in test_websocket_openings.py."""
    handshake = end.wire.handshake
    assert handshake is not None
    # One end's request or the other one's response.
    assert handshake.headers["Sec-WebSocket-Protocol"] == "xmpp"


async def test_ws_02_each_stanza_is_one_whole_text_frame(
    end: End, peer: XmppProxyPeer, juliet: User
) -> None:
    if end.masks:
        await peer.acknowledged(end.wire)
    else:
        for number in range(20):
            juliet.send(f"paris@{PEER}", f"line {number} " + "x" * number * 1000)
        await peer.next_stanza("line 19 ")
    assert sent_by(end, TEXT)
    assert not sent_by(end, BINARY, CONTINUATION)
    for each in sent_by(end, TEXT):
        assert each.fin and bytes(each.data)[:1] == b"<"


MALFORMED = {
    "ws-03 two elements": b"<message/><message/>",
    "ws-03 text behind": b"<message/>evil",
    "ws-03 half an element": b"<message>evil",
    "ws-04 text first": b"evil<message/>",
    "ws-04 a comment first": b"<!--evil--><message/>",
    "ws-04 nothing of XML": b"evil",
}


@pytest.mark.parametrize("rule", MALFORMED)
async def test_ws_03_04_a_message_is_one_element(end: End, juliet: User, rule: str) -> None:
    end.send(TEXT, MALFORMED[rule].replace(b"<message/>", message(juliet.jid, "evil")))
    # A stream error, so the WebSocket itself closes in order (RFC 7395 §3.5).
    assert await end.code() == 1000
    await undisturbed(juliet)


@pytest.mark.parametrize("declaration", [b"", b"<?xml version='1.0'?>", b"\n"])
async def test_ws_05_a_declaration_is_neither_needed_nor_harmful(
    stage: Stage, peer: XmppProxyPeer, juliet: User, declaration: bytes
) -> None:
    wire = await peer.connect(URL, stage.capulet_gateway.address, CAPULET)
    body = f"declared by {len(declaration)} bytes"
    End(wire, masks=True).send(TEXT, declaration + message(juliet.jid, body))
    await juliet.message(body)
    wire.end()


async def test_ws_06_fragments_are_put_together(
    stage: Stage, peer: XmppProxyPeer, juliet: User
) -> None:
    """Cut inside a letter, an empty one among them, control frames in between."""
    wire = await peer.connect(URL, stage.capulet_gateway.address, CAPULET)
    end = End(wire, masks=True)
    data = message(juliet.jid, "café, fragmented")
    cut = data.index("é".encode()) + 1
    end.send(TEXT, data[:cut], fin=False)
    end.send(PING, b"in between")
    end.send(CONTINUATION, b"", fin=False)
    end.send(PONG, b"unasked")
    end.send(CONTINUATION, data[cut:])
    await juliet.message("café, fragmented")
    assert [bytes(each.data) for each in sent_by(end, PONG)] == [b"in between"]
    wire.end()


async def test_ws_07_binary_is_1003(end: End, juliet: User) -> None:
    end.send(BINARY, message(juliet.jid, "evil"))
    assert await end.code() == 1003
    await undisturbed(juliet)


NOT_UTF8 = {
    "alone": [(TEXT, b"evil \xff", True)],
    "overlong": [(TEXT, b"evil \xc0\xaf", True)],
    "a surrogate": [(TEXT, b"evil \xed\xa0\x80", True)],
    "beyond Unicode": [(TEXT, b"evil \xf4\x90\x80\x80", True)],
    "cut off": [(TEXT, b"evil \xc3", True)],
    "across fragments": [(TEXT, b"evil \xc3", False), (CONTINUATION, b"\x28", True)],
    "in the reason of Close": [(CLOSE, b"\x03\xe8\xff", True)],
}


@pytest.mark.parametrize("case", NOT_UTF8)
async def test_ws_08_what_is_no_utf8_is_1007(end: End, juliet: User, case: str) -> None:
    before, _, after = message(juliet.jid, "BODY").partition(b"BODY")
    for opcode, payload, fin in NOT_UTF8[case]:
        if opcode == TEXT:
            payload = before + payload
        if fin and opcode != CLOSE:
            payload += after
        end.send(opcode, payload, fin=fin)
    assert await end.code() == 1007
    await undisturbed(juliet)


# Twice the largest stanza, which is what a session may send once it is authenticated.
LARGEST = 2 * 262144
TOO_LARGE = {
    "sent": lambda masks: frame(TEXT, b"x" * (LARGEST + 1), masks=masks),
    "announced": lambda masks: frame(TEXT, b"<", length=LARGEST + 1, masks=masks),
    "announced beyond all bounds": lambda masks: frame(TEXT, b"<", length=2**62, masks=masks),
    "in fragments": lambda masks: (
        frame(TEXT, b"x" * LARGEST, fin=False, masks=masks)
        + frame(CONTINUATION, b"x", fin=False, masks=masks)
    ),
}


@pytest.mark.parametrize("case", TOO_LARGE)
async def test_ws_09_what_is_too_large_is_1009(end: End, juliet: User, case: str) -> None:
    end.wire.send_bytes(TOO_LARGE[case](end.masks))
    assert await end.code() == 1009
    await undisturbed(juliet)


async def test_ws_10_each_ping_is_answered_with_its_payload(end: End) -> None:
    for payload in (b"", b"k", bytes(range(125))):
        end.send(PING, payload)
        await goes_on(end)
        assert payload in [bytes(each.data) for each in sent_by(end, PONG)]
    end.send(PONG, b"unasked")
    await goes_on(end)


# What no frame may be: RFC 6455 §5.1 (masks), §5.2 (bits, opcodes), §5.4, §5.5 and §7.4.
ILLEGAL: dict[str, list[tuple[int, bytes, bool, int]]] = {
    "ws-10 a ping of 126 bytes": [(PING, b"x" * 126, True, 0)],
    "ws-10 a fragmented ping": [(PING, b"", False, 0)],
    "ws-11 a fragmented close": [(CLOSE, b"", False, 0)],
    "ws-11 a close of one byte": [(CLOSE, b"x", True, 0)],
    "ws-11 a close of 126 bytes": [(CLOSE, b"\x03\xe8" + b"x" * 124, True, 0)],
    **{
        f"ws-11 close code {code}": [(CLOSE, struct.pack("!H", code), True, 0)]
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000)
    },
    "ws-02 a continuation of nothing": [(CONTINUATION, b"<evil/>", True, 0)],
    "ws-02 a message inside another": [(TEXT, b"<", False, 0), (TEXT, b"<evil/>", True, 0)],
    "ws-02 a reserved opcode": [(0x3, b"", True, 0)],
    "ws-10 a reserved control opcode": [(0xB, b"", True, 0)],
    "ws-12 rsv1, as compression has": [(TEXT, b"<evil/>", True, 4)],
    "ws-12 rsv2": [(TEXT, b"<evil/>", True, 2)],
    "ws-12 rsv3": [(PING, b"", True, 1)],
}


@pytest.mark.parametrize("rule", ILLEGAL)
async def test_illegal_frames_are_1002(end: End, juliet: User, rule: str) -> None:
    for opcode, payload, fin, bits in ILLEGAL[rule]:
        end.send(opcode, payload, fin=fin, bits=bits)
    assert await end.code() == 1002
    await undisturbed(juliet)


async def test_frames_are_masked_by_the_client_alone(end: End, juliet: User) -> None:
    """That the gateway does so itself is checked by the peer's own protocol in all other tests."""
    end.masks = not end.masks
    end.send(TEXT, message(juliet.jid, "evil"))
    assert await end.code() == 1002
    await undisturbed(juliet)


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", 1005), (b"\x03\xe8", 1000), (b"\x03\xe9going", 1001), (b"\x0f\xa0", 4000)],
)
async def test_ws_11_close_is_answered_and_nothing_after_it_is_heard(
    end: End, juliet: User, payload: bytes, code: int
) -> None:
    end.send(CLOSE, payload)
    end.send(TEXT, message(juliet.jid, "evil"))
    end.send(PING, b"evil")
    assert await end.code() == code
    [close] = sent_by(end, CLOSE)
    assert bytes(close.data)[:2] == payload[:2]
    assert end.frames[-1] is close and not sent_by(end, PONG)
    await undisturbed(juliet)


async def test_ws_11_the_stream_is_closed_before_the_websocket(
    stage: Stage, peer: XmppProxyPeer
) -> None:
    """RFC 7395 §3.6; who closed the stream last starts the WebSocket's handshake."""
    wire = await peer.connect(URL, stage.capulet_gateway.address, CAPULET)
    end = End(wire, masks=True)
    end.send(TEXT, f"<close xmlns='{FRAMING}'/>".encode())
    assert await end.code() == 1000
    texts = [bytes(each.data) for each in sent_by(end, TEXT)]
    assert texts[-1].startswith(b"<close ")
    assert end.frames[-1].opcode is Opcode.CLOSE
    assert len(sent_by(end, CLOSE)) == 1


async def test_ws_12_no_compression_is_agreed_on(end: End) -> None:
    assert end.wire.handshake is not None
    assert "Sec-WebSocket-Extensions" not in end.wire.handshake.headers
    await goes_on(end)
