"""Sessions that outlive the certificate that proved their peer."""

import asyncio
import time

import pytest

from tests.workers.gateway.gateway_bench import Peer
from tests.workers.gateway.session_bench import FarServer, on_quiet_loop, until
from workers.gateway import expiry
from workers.gateway.expiry import REASON, end_by, end_in_time
from workers.gateway.idleness import ROUND, Idleness
from workers.xmpp.errors import StreamCondition
from workers.xmpp.events import StreamFailed


async def connected(far: FarServer) -> Peer:
    peer = Peer()
    peer.session = await far.connect(peer)
    return peer


@on_quiet_loop
async def test_a_session_is_reset_when_the_first_certificate_lapses(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    peer = await connected(far)
    end_by(peer.session, time.time() + 0.2)
    end_by(peer.session, time.time() + 3600)
    await until(lambda: peer.ended and far.ended)
    assert peer.ended == [REASON]
    (failed,) = [event for event in peer.events if isinstance(event, StreamFailed)]
    assert (failed.condition, failed.by_peer) == (StreamCondition.RESET, False)
    assert "reset" in far.ended[0]
    await far.close()


@on_quiet_loop
async def test_what_has_lapsed_already_ends_it_at_once(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    peer = await connected(far)
    end_by(peer.session, time.time() - 1)
    await until(lambda: peer.ended and far.ended)
    end_by(peer.session, time.time() - 1)  # nothing is left to end
    await far.close()


@on_quiet_loop
async def test_the_clock_is_looked_at_in_each_round(
    short_times: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = await FarServer().serve_tcp()
    peer = await connected(far)
    idleness = Idleness(lambda: iter([peer.session]))
    end_by(peer.session, time.time() + 3600)
    for _ in range(ROUND):
        idleness.each_second()
    assert not peer.session.ended
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)  # somebody sets the clock
    for _ in range(ROUND):
        idleness.each_second()
    await until(lambda: peer.ended)
    assert peer.ended == [REASON]
    await far.close()


@on_quiet_loop
async def test_it_ends_in_time_though_no_look_comes_just_then(
    short_times: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = await FarServer().serve_tcp()
    peer = await connected(far)
    monkeypatch.setattr(expiry, "SOON", 0.5)
    end = time.time() + 0.8
    end_by(peer.session, end)
    await asyncio.sleep(0.4)  # between two looks
    end_in_time(peer.session)
    end_in_time(peer.session)
    assert not peer.ended
    await until(lambda: peer.ended)
    assert time.time() >= end
    await far.close()


@on_quiet_loop
async def test_a_session_that_has_ended_is_watched_no_more(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    peer = await connected(far)
    end_by(peer.session, time.time() + 0.2)
    peer.session.close()
    await until(lambda: peer.ended)
    await asyncio.sleep(0.3)
    assert not [event for event in peer.events if isinstance(event, StreamFailed)]
    await far.close()
