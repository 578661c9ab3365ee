"""Sessions that outlive the certificate that proved their peer."""

import asyncio
import time

import pytest

from tests.workers.gateway.gateway_bench import Peer
from tests.workers.gateway.session_bench import FarServer, on_quiet_loop, until
from workers.gateway import expiry
from workers.gateway.expiry import REASON, Expiry
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
    watch = Expiry(peer.session)
    watch.end_by(time.time() + 0.2)
    watch.end_by(time.time() + 3600)
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
    Expiry(peer.session).end_by(time.time() - 1)
    await until(lambda: peer.ended and far.ended)
    Expiry(peer.session).end_by(time.time() - 1)  # nothing is left to end
    await far.close()


@on_quiet_loop
async def test_the_clock_is_looked_at_now_and_then(
    short_times: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "INTERVAL", 0.01)
    far = await FarServer().serve_tcp()
    peer = await connected(far)
    Expiry(peer.session).end_by(time.time() + 3600)
    await asyncio.sleep(0.03)
    assert not peer.session.ended
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)  # somebody sets the clock
    await until(lambda: peer.ended)
    await far.close()


@on_quiet_loop
async def test_a_session_that_has_ended_is_watched_no_more(short_times: None) -> None:
    far = await FarServer().serve_tcp()
    peer = await connected(far)
    Expiry(peer.session).end_by(time.time() + 0.2)
    peer.session.close()
    await until(lambda: peer.ended)
    await asyncio.sleep(0.3)
    assert not [event for event in peer.events if isinstance(event, StreamFailed)]
    await far.close()
