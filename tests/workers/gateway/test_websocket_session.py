"""A session on a WebSocket: pings, early peers, too many names, what is no UTF-8."""

import asyncio

import pytest

from tests.workers.gateway.gateway_bench import Peer
from tests.workers.gateway.session_bench import FarServer, message, on_quiet_loop, until
from workers.gateway.allowance import Allowance
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import Negotiation
from workers.gateway.session import SessionOwner
from workers.gateway.websocket import WebSocket
from workers.gateway.websocket_connect import connect
from workers.gateway.websocket_session import WebSocketSession
from workers.xmpp.framing import WebSocketFraming
from workers.xmpp.initiating import InitiatingStream
from workers.xmpp.parser import MessageParser
from workers.xmpp.stream import StreamConfig


@on_quiet_loop
async def test_a_peer_that_brings_too_many_names_is_sent_away(short_times: None) -> None:
    far = await FarServer().serve_websocket()
    peer = Peer()
    peer.session = await far.connect(peer, websocket=True)
    session = far.sessions[0]
    assert isinstance(session, WebSocketSession)
    session.websocket.meter = Allowance(0, 0, 100)
    for number in range(3):
        inner = "".join(f"<too-many-{number}-{n}/>" for n in range(40))
        peer.session.stream.send_stanzas([message(f"{number}", body=inner)])
        peer.session.write()
        await until(lambda count=number: len(far.got) > count or peer.ended)
    await until(lambda: peer.ended)
    assert "policy-violation (too many new XML names)" in peer.ended[0]
    assert len(far.got) == 3  # what it had brought is not lost
    await far.close()


@on_quiet_loop
async def test_a_websocket_that_has_to_rest_is_not_cut_for_its_silence(short_times: None) -> None:
    far = await FarServer().serve_websocket()
    peer = Peer()
    session = await far.connect(peer, websocket=True)
    assert isinstance(session, WebSocketSession)
    session.channel.rest(0.2)
    for _ in range(9):
        session.keep_alive()
    await until(lambda: session.is_reading)
    assert not peer.ended
    session.keep_alive()
    await until(lambda: session._unanswered == 0)  # the answers have come
    assert not peer.ended
    session.abort("done")
    await far.close()


@on_quiet_loop
async def test_a_websocket_that_answers_no_ping_is_cut(short_times: None) -> None:
    far = await FarServer().serve_websocket()
    peer = Peer()
    session = await far.connect(peer, websocket=True)
    assert isinstance(session, WebSocketSession)
    far.sessions[0].pause_reading()
    for _ in range(3):
        session.keep_alive()
    await until(lambda: peer.ended)
    assert "no answer to pings" in peer.ended[0]
    await far.close()


@on_quiet_loop
async def test_silence_means_nothing_while_we_do_not_read(short_times: None) -> None:
    far = await FarServer().serve_websocket()
    peer = Peer()
    session = await far.connect(peer, websocket=True)
    assert isinstance(session, WebSocketSession)
    session.pause_reading()
    for _ in range(5):
        session.keep_alive()
    assert not session.channel.is_closing
    session.resume_reading()
    await far.close()
    await until(lambda: peer.ended)


async def opened(far: FarServer, owner: SessionOwner) -> tuple[WebSocketSession, WebSocket]:
    """Our session and its WebSocket, which is open and not handed over yet."""
    parser = MessageParser(StreamConfig().limits)
    stream = InitiatingStream(
        StreamConfig(),
        WebSocketFraming(),
        parser.parse,
        parser,
        0.0,
        sender="a.example",
        target="b",
    )
    session = WebSocketSession(stream, owner)
    websocket = await connect(
        "ws://127.0.0.1/xmpp-s2s", session, address=("127.0.0.1", far.port), context=None
    )
    return session, websocket


@on_quiet_loop
async def test_a_server_that_speaks_first_is_refused(short_times: None) -> None:
    far = await FarServer().serve_websocket()
    negotiation = Negotiation(Peer())
    session, websocket = await opened(far, negotiation)
    session.messages_received([b"<open/>"])  # in the read of the handshake, or right behind it
    session.attach(websocket)
    with pytest.raises(HopFailed, match="spoke before"):
        await negotiation.finish(session, 5.0)
    await far.close()


@on_quiet_loop
async def test_a_turn_may_come_before_the_websocket_is_handed_over(short_times: None) -> None:
    far = await FarServer().serve_websocket()
    session, websocket = await opened(far, Peer())
    for _ in range(9):
        session.keep_alive()
    session.attach(websocket)
    assert not session.channel.is_closing
    session.keep_alive()
    assert session._unanswered == 1
    session.abort("done")
    await far.close()


@on_quiet_loop
async def test_a_round_trip_is_measured_unless_the_session_ends(
    short_times: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = await FarServer().serve_websocket()
    peer = Peer()
    session = await far.connect(peer, websocket=True)
    assert isinstance(session, WebSocketSession)
    assert 0 < await session.round_trip() < 5
    monkeypatch.setattr(WebSocketSession, "ping", lambda session, payload: None)
    waiting = asyncio.create_task(session.round_trip())
    await asyncio.sleep(0)
    session.abort("enough")
    with pytest.raises(ConnectionError):
        await waiting
    with pytest.raises(ConnectionError):
        await session.round_trip()
    await until(lambda: peer.ended and far.ended)
    await far.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"<message xmlns='jabber:server'><body>\xed\xa0\x80</body></message>", 1007),
        (b"<message xmlns='jabber:server'><body>\xc3", 1007),
        (b"<message xmlns='jabber:server'><body>", 1000),
    ],
)
@on_quiet_loop
async def test_what_is_no_utf8_ends_the_websocket_with_its_code(
    short_times: None, data: bytes, code: int
) -> None:
    far = await FarServer().serve_websocket()
    peer = Peer()
    session = await far.connect(peer, websocket=True)
    assert isinstance(session, WebSocketSession)
    session.websocket.send_messages([data])
    await until(lambda: peer.ended and far.ended)
    assert "not-well-formed" in far.ended[0]
    close = session.websocket._protocol.close_rcvd
    assert close is not None and close.code == code
    await far.close()
