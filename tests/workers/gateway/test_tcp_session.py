"""A session on TCP: elements that take too long, and the writes of a peer."""

import asyncio

import pytest

from coordinator.config import Limits
from tests.workers.gateway.gateway_bench import Peer
from tests.workers.gateway.session_bench import FarServer, message, on_quiet_loop, until
from workers.gateway.tcp_session import WRITE_STEP, TcpSession


@on_quiet_loop
async def test_an_element_that_is_never_complete_ends_the_stream(short_times: None) -> None:
    """Whether it stalls or trickles; one that is complete in time does not count."""
    far = await FarServer(limits=Limits(stanza_timeout=0.05)).serve_tcp()
    far.handles = False  # the peer does not count what it writes here
    peer = Peer()
    peer.session = await far.connect(peer)
    beginning, end = message("1").data[:-10], message("1").data[-10:]
    for number in range(3):
        peer.session.channel.write(beginning)
        await until(lambda: far.sessions[0].stream.unfinished)
        peer.session.channel.write(end + b" ")
        await until(lambda count=number + 1: len(far.got) == count)
    await asyncio.sleep(0.1)
    assert not far.ended
    peer.session.channel.write(beginning)
    while not peer.ended:
        peer.session.channel.write(b"<a/>")
        await asyncio.sleep(0.01)
    assert "policy-violation (an element took too long)" in peer.ended[0]
    assert len(far.got) == 3
    await far.close()


@on_quiet_loop
async def test_an_element_has_time_while_we_do_not_read(short_times: None) -> None:
    far = await FarServer(limits=Limits(stanza_timeout=0.05)).serve_tcp()
    far.handles = False  # the peer does not count what it writes here
    peer = Peer()
    peer.session = await far.connect(peer)
    data = message("1").data
    peer.session.channel.write(data[:-10])
    await until(lambda: far.sessions[0].stream.unfinished)
    far.sessions[0].pause_reading()
    await asyncio.sleep(0.1)
    peer.session.channel.write(data[-10:])
    far.sessions[0].resume_reading()
    await until(lambda: far.got)
    peer.session.close()
    await until(lambda: peer.ended and far.ended)
    await far.close()


@on_quiet_loop
async def test_the_writes_of_a_peer_are_told_apart_by_its_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = await FarServer().serve_tcp()
    peer = Peer()
    session = await far.connect(peer)
    session.by_record = True
    taken: list[tuple[int, bytes]] = []
    sizes: tuple[int, ...] = (3, WRITE_STEP, 2 * WRITE_STEP, 5, 7)

    class Records:
        record_sizes = sizes

    channel, session.channel = session.channel, Records()  # type: ignore[assignment]
    with monkeypatch.context() as patched:
        patched.setattr(
            TcpSession, "_receive", lambda session, data: taken.append((session.writes, data))
        )
        session.data_received(bytes(sum(sizes)))
    assert [(write, len(data)) for write, data in taken] == [
        (1, 3),
        (2, WRITE_STEP),
        (2, 2 * WRITE_STEP),
        (2, 5),
        (3, 7),
    ]
    session.channel = channel
    session.abort("done")
    await far.close()
