"""A session's own duties, whatever it runs on: acknowledgements per turn and time limits."""

import asyncio

from tests.workers.gateway.gateway_bench import Peer
from tests.workers.gateway.session_bench import FarServer, message, on_quiet_loop, until
from workers.gateway.session import Session
from workers.xmpp.events import Acknowledged, DialbackKeyReceived, Event


@on_quiet_loop
async def test_what_is_handled_in_one_turn_is_told_once(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    far.handles = False
    peer = Peer()
    peer.session = await far.connect(peer)
    peer.session.stream.send_stanzas([message("1"), message("2")])
    peer.session.write()
    await until(lambda: len(far.got) == 2)
    far.sessions[0].mark_handled(1)
    far.sessions[0].mark_handled(1)
    await until(lambda: Acknowledged(2) in peer.events)
    peer.session.close()
    await until(lambda: peer.ended and far.ended)
    assert peer.session.closed_future.done()
    await far.close()


@on_quiet_loop
async def test_a_peer_that_does_not_close_is_cut(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    peer = Peer()
    peer.session = await far.connect(peer)
    far.sessions[0].pause_reading()
    peer.session.close()
    peer.session.close()
    await until(lambda: peer.ended)
    await far.close()


@on_quiet_loop
async def test_a_stream_that_closes_by_itself_has_its_time_limit_too(short_times: None) -> None:
    """After an invalid key the receiving stream closes; a stranger must not hold it open."""
    far = await FarServer().serve_tcp()
    far.external = False

    def deny(session: Session, event: Event) -> None:
        if isinstance(event, DialbackKeyReceived):
            session.stream.answer_dialback(  # type: ignore[attr-defined]
                sender=event.sender, target=event.target, outcome="invalid"
            )
        else:
            FarServer.on_event(far, session, event)

    far.on_event = deny  # type: ignore[method-assign,assignment]
    reader, writer = await asyncio.open_connection("127.0.0.1", far.port)
    writer.write(
        b"<stream:stream from='a.example' to='montague.example' version='1.0' "
        b"xmlns='jabber:server' xmlns:db='jabber:server:dialback' "
        b"xmlns:stream='http://etherx.jabber.org/streams'>"
        b"<db:result from='a.example' to='montague.example'>key</db:result>"
    )
    await until(lambda: far.ended)
    assert (await reader.read()).endswith(b"</stream:stream>")
    writer.close()
    await far.close()


@on_quiet_loop
async def test_negotiation_has_a_deadline(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    reader, writer = await asyncio.open_connection("127.0.0.1", far.port)
    await until(lambda: far.sessions)
    session = far.sessions[0]
    session.stream._deadline = asyncio.get_running_loop().time()
    session.start_timer()
    assert b"connection-timeout" in await reader.read()
    writer.close()
    await until(lambda: far.ended)
    await far.close()
