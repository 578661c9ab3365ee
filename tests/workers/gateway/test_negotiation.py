"""Sessions are handed to their owner once established, and closed in every other case."""

import asyncio

import pytest

from tests.workers.gateway.gateway_bench import Peer
from tests.workers.gateway.session_bench import FarServer, on_quiet_loop, until
from workers.gateway.failure import HopFailed
from workers.gateway.negotiation import Negotiation, NoOwner, SeeOtherUri
from workers.gateway.session import Session
from workers.xmpp.events import StreamClosed, StreamEstablished, StreamOpened


@on_quiet_loop
async def test_an_established_session_belongs_to_its_owner(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    peer = Peer()
    session = await far.connect(peer)
    assert session.owner is peer
    await far.close()
    await until(lambda: peer.ended)


@on_quiet_loop
async def test_a_refused_session_fails_at_once_and_is_closed(short_times: None) -> None:
    """The peer may take its time to close: nobody waits for that."""
    far = await FarServer().serve_tcp()
    far.external, far.outcome = False, "error"
    with pytest.raises(HopFailed, match="dialback answered error"):
        await far.connect(Peer())
    await until(lambda: far.ended)
    await far.close()


@on_quiet_loop
async def test_silence_fails_after_the_timeout_and_is_closed(short_times: None) -> None:
    far = FarServer()
    far.on_event = lambda session, event: None  # type: ignore[method-assign]
    await far.serve_tcp()
    with pytest.raises(HopFailed, match="within"):
        await far.connect(Peer(), timeout=0.05)
    await until(lambda: far.ended)
    await far.close()


@on_quiet_loop
async def test_a_cancelled_wait_closes_the_session(short_times: None) -> None:
    far = FarServer()
    far.on_event = lambda session, event: None  # type: ignore[method-assign]
    await far.serve_tcp()
    task = asyncio.create_task(far.connect(Peer()))
    await until(lambda: far.sessions and far.sessions[0].stream.sender)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: far.ended)
    await far.close()


@on_quiet_loop
async def test_a_session_established_too_late_is_closed(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    peer = Peer()
    session = await far.connect(peer)
    late = Negotiation(peer)
    late.on_event(session, StreamEstablished())
    late._done = asyncio.get_running_loop().create_future()
    with pytest.raises(HopFailed):
        await late.finish(session, 0.01)
    await until(lambda: session.ended)
    assert peer.ended == []  # it never heard of this one again
    await far.close()


@on_quiet_loop
async def test_another_endpoint_may_be_named(short_times: None) -> None:
    far = FarServer()

    def move(session: Session, event: object) -> None:
        if isinstance(event, StreamOpened):
            session.stream.offer(external=True, dialback=False)  # type: ignore[attr-defined]
            session.close("wss://other.example/")

    far.on_event = move  # type: ignore[method-assign,assignment]
    await far.serve_websocket()
    with pytest.raises(SeeOtherUri) as caught:
        await far.connect(Peer(), websocket=True)
    assert caught.value.uri == "wss://other.example/"
    await until(lambda: far.ended)
    await far.close()


async def test_no_owner_passes_events_on() -> None:
    seen: list[object] = []
    owner = NoOwner(lambda session, event: seen.append(event))
    owner.on_event(None, StreamClosed(True))  # type: ignore[arg-type]
    NoOwner().on_event(None, StreamClosed(True))  # type: ignore[arg-type]
    assert seen == [StreamClosed(True)]
